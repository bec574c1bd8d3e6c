"""BatchTopK of `x W^T + bias`: one threshold for a whole batch, exact, from a product in low precision.

As in `low_precision`, a bound on the error says which entries may reach the threshold; they alone are computed exactly.

Shapes: N tokens, F d_sae, D d_in, S slots.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.compiled import evenly, parallel
from chronosae.kernels.low_precision import product_bits
from chronosae.kernels.memory import recycled
from chronosae.kernels.rounded import rounded_inputs, rounded_weights

# Candidates a token may have; more than this would be too many for sparse codes.
ROOM = 1024
GROUPS = 512
# Entries of the product, which must be in memory at once.
LARGEST = 2**27


class Above(NamedTuple):
    """Entries that reach a threshold, in as many slots as the fullest token needs."""

    values: Float[Tensor, "n s"]
    indices: Int[Tensor, "n s"]
    threshold: Float[Tensor, ""]


def above_threshold(
    loops: SimpleNamespace,
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    active: Bool[Tensor, " n"] | None,
    *,
    count: int | None = None,
    threshold: float = 0.0,
) -> Above | None:
    """All positive entries that reach `threshold`, or with `count` the count-th largest positive one of all.

    If fewer than `count` are positive, the smallest positive one is the threshold, and Inf if none is. None is returned
    where the bound doesn't decide, or a token would need too many slots: then every entry must be computed.
    """
    rows = torch.arange(len(x)) if active is None else active.nonzero().squeeze(1)
    if not len(rows) or len(rows) * len(W) > LARGEST:
        return None
    inputs, weights = rounded_inputs(loops, x), rounded_weights(loops, W, bias)
    worst = torch.stack([weights.norms.max(), weights.errors.max()])
    # Not `>`: a NaN must not pass.
    if not float((inputs.norms * worst.max()).max()) < 1e37:
        return None
    approx, n = product_bits(inputs, weights, rows), len(rows)
    maxima = recycled((n, min(GROUPS, len(W))), torch.int16)
    bounds = recycled(tuple(maxima.shape), torch.float32)
    bits, places, known = approx.numpy(), rows.numpy(), [t.numpy() for t in (inputs.norms, inputs.errors)]
    out = maxima.numpy(), bounds.numpy()
    parallel(evenly(n, 16), lambda a, b: loops.lower_bounds(bits, places, *known, worst.numpy(), a, b, *out))
    least = max(threshold, 0.0) if count is None else _at_least(out[1], count)
    room = min(ROOM, len(W))
    found, exact = recycled((n, room), torch.int32), recycled((n, room), torch.float32)
    lists = found.numpy(), exact.numpy(), np.empty(n, np.int64)
    weigh = W.numpy(), worst.numpy(), bias.numpy(), np.float32(least)
    parallel(
        evenly(n, 16),
        lambda a, b: loops.collect(bits, places, x.numpy(), *known, *weigh, out[0], a, b, *lists),
    )
    if (lists[2] < 0).any():
        return None
    reached = np.float32(threshold) if count is None else _count_th(lists[1], lists[2], count)
    return _in_slots(loops, places, lists, reached, (len(x), len(W)))


def _at_least(bounds: np.ndarray, count: int) -> float:
    """A lower bound of the count-th largest entry; what isn't positive is never chosen."""
    if bounds.size < count:
        return 0.0
    return max(float(np.partition(bounds, bounds.size - count, axis=None)[bounds.size - count]), 0.0)


def _count_th(exact: np.ndarray, counts: np.ndarray, count: int) -> np.float32:
    entries = exact[np.arange(exact.shape[1]) < counts[:, None]]
    positive = entries[entries > 0]
    if not len(positive):
        return np.float32(np.inf)
    place = max(len(positive) - count, 0)
    return np.partition(positive, place)[place]


def _in_slots(
    loops: SimpleNamespace, rows: np.ndarray, lists: tuple, threshold: np.float32, shape: tuple[int, int]
) -> Above:
    found, exact, counts = lists
    kept = np.empty(len(rows), np.int64)
    loops.kept_counts(exact, counts, threshold, kept)
    slots = max(int(kept.max()), 1)
    indices, values = torch.zeros(shape[0], slots, dtype=torch.int64), torch.zeros(shape[0], slots)
    loops.write_kept(rows, found, exact, counts, kept, threshold, indices.numpy(), values.numpy())
    return Above(values, indices, torch.tensor(float(threshold)))
