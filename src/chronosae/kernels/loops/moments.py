"""Second moments of each target's own few regressors: see `kernels/moments.py`.

On which of 128 tokens something fired is two words of 64 bits, so that a regressor and another meet in one instruction
and each target's table is visited once.
"""

from typing import Any, no_type_check

import numpy as np
from numba import types
from numba.extending import intrinsic

from chronosae.kernels.loops.bits import loop


@intrinsic
@no_type_check
def ones_in(typing: Any, word: Any) -> Any:
    """How many bits of 64 are set."""
    return types.uint64(types.uint64), _ctpop


@no_type_check
def _ctpop(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.ctpop(args[0])


@loop
@no_type_check
def mark_firings(features, values, past_features, past_values, full, low, high, now):
    """Set the bits of at most 128 tokens that are `full`: of each (lag, feature) before it, and of each feature now.

    low, high [w F]: bits 0 to 63 and 64 to 127. now [2, F]: the same of what fires at the token.
    """
    lags, past, d_sae = past_features.shape[1], past_features.shape[2], now.shape[1]
    for t in range(features.shape[0]):
        if not full[t]:
            continue
        bit, words = np.uint64(1) << np.uint64(t & 63), high if t > 63 else low
        for m in range(lags):
            for j in range(past):
                if past_values[t, m, j] != 0:
                    words[m * d_sae + past_features[t, m, j]] |= bit
        for i in range(features.shape[1]):
            if values[t, i] != 0:
                now[t >> 6, features[t, i]] |= bit


@loop
@no_type_check
def count_regressors(source, lag, low, high, now, first, last, joint, with_target, target):
    """Add to targets `first` to `last` on how many tokens their regressors fired together, and with the target."""
    d_sae, r = source.shape
    width, flat = np.uint64(r), joint.reshape(-1)
    a, b = np.empty(r, np.uint64), np.empty(r, np.uint64)
    for f in range(first, last):
        some = np.uint64(0)
        for x in range(r):
            used = source[f, x] >= 0
            key = np.uint64((lag[f, x] - 1) * d_sae + source[f, x]) if used else np.uint64(0)
            a[x], b[x] = low[key] if used else np.uint64(0), high[key] if used else np.uint64(0)
            some |= a[x] | b[x]
        A, B = now[0, f], now[1, f]
        target[f] += ones_in(A) + ones_in(B)
        if some == 0:
            continue
        for x in range(r):
            C, D = a[x], b[x]
            if C | D == 0:
                continue
            with_target[f, x] += ones_in(A & C) + ones_in(B & D)
            row = np.uint64(f * r + x) * width
            for y in range(width):
                flat[row + y] += np.float32(np.int32(ones_in(a[y] & C) + ones_in(b[y] & D)))
