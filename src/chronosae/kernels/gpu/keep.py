"""The k largest positive ones of a row's candidates, into slots.

Shapes: N tokens, K k, R room.
"""

from typing import no_type_check

import torch
import triton
from jaxtyping import Bool, Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.candidates import Candidates
from chronosae.kernels.gpu.entries import NOTHING, Extras, entries, keys
from chronosae.kernels.gpu.launch import launch, power_of_two
from chronosae.kernels.gpu.ordered import LOWEST, kth_largest, ordered_key


def keep_largest(
    found: Candidates, values: Float[Tensor, "n r"], k: int, active: Bool[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values (float32) and indices of the k largest positive candidates; indices ascending, unused slots (0, 0).

    Arguments:
        values: one for each candidate.
        active: tokens that get any; all by default.
    """
    return _keep_k(found, values, k, active, NOTHING, False)


def keep_largest_of(
    found: Candidates,
    s: Float[Tensor, "n f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    extras: Extras = NOTHING,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The same of entries that are read again: of `s` with its extras. Values are without the gates' weights."""
    return _keep_k(found, s, k, active, extras, True)


def _keep_k(
    found: Candidates, values: Tensor, k: int, active: Tensor | None, extras: Extras, by_feature: bool
) -> tuple[Tensor, Tensor]:
    n, room = found.indices.shape
    indices = torch.empty(n, k, dtype=torch.int64, device=values.device)
    kept = torch.empty(n, k, dtype=torch.float32, device=values.device)
    arguments = values, *extras, found.indices, found.counts, active, indices, kept, n, values.shape[1], k, room
    block = power_of_two(room)
    constants = {"BY_FEATURE": by_feature, "BLOCK": block, **extras.constants}
    launch(_keep, (n,), *arguments, num_warps=4 if block <= 1024 else 8, **constants)
    return kept, indices


@triton.jit
@no_type_check
def _keep(
    values,
    bias,
    taps,
    sources,
    gates,
    gate_rows,
    found,
    counts,
    active,
    indices,
    kept,
    n,
    width,
    k,
    room,
    LAGS: tl.constexpr,
    BY_FEATURE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    used = lane < tl.load(counts + t)
    if active is not None:
        used = used & (tl.load(active + t) != 0)
    feature = tl.load(found + t * room + lane, mask=used, other=0)
    if BY_FEATURE:
        value = entries(values, t, feature, used, n, width, bias, taps, sources, LAGS)
        key = keys(value, t, feature, used, width, gates, gate_rows)
    else:
        value = tl.load(values + t * width + lane, mask=used, other=0)
        key = tl.where(used, ordered_key(value), LOWEST)
    threshold = tl.maximum(kth_largest(key, k), 1)
    above, equal = key > threshold, key == threshold
    spare = k - tl.sum(above.to(tl.int32), 0)
    chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
    unused = k - tl.sum(chosen.to(tl.int32), 0)
    slot = t * k + unused + tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(indices + slot, feature.to(tl.int64), mask=chosen)
    tl.store(kept + slot, value, mask=chosen)
    tl.store(indices + t * k + lane, tl.zeros([BLOCK], tl.int64), mask=lane < unused)
    tl.store(kept + t * k + lane, tl.zeros([BLOCK], tl.float32), mask=lane < unused)
