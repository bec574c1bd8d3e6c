"""Second moments of each target's own few regressors: which of them fired together, and with the target.

A regressor is a feature at a lag. Shapes: n tokens, F targets, r regressors of each.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.compiled import evenly, parallel
from chronosae.kernels.triples import Firings

# Two words of bits.
TOKENS = 128


def count_regressors(
    seen: Firings,
    full: Bool[Tensor, " n"],
    regressors: tuple[Int[Tensor, "F r"], Int[Tensor, "F r"]],
    joint: Float[Tensor, "F r r"],
    with_target: Float[Tensor, "F r"],
    target: Float[Tensor, " F"],
) -> bool:
    """Add the tokens that are `full` to the counts of regressors that fired; False: there is no compiler for this.

    regressors: source (-1: none) and lag. joint: two of them together; with_target: one with its target; target: alone.
    """
    loops = seen.loops()
    if loops is None:
        return False
    firings, whole = seen.arrays(), full.contiguous().numpy()
    lags, d_sae = seen.past_features.shape[1], len(target)
    given, counters = [t.numpy() for t in regressors], [t.numpy() for t in (joint, with_target, target)]
    for start in range(0, len(whole), TOKENS):
        low, high, now = (np.zeros(s, np.uint64) for s in (lags * d_sae, lags * d_sae, (2, d_sae)))
        loops.mark_firings(*(t[start : start + TOKENS] for t in [*firings, whole]), low, high, now)
        words = low, high, now
        parallel(evenly(d_sae, 64), lambda a, b, words=words: loops.count_regressors(*given, *words, a, b, *counters))
    return True
