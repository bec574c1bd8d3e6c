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
from chronosae.kernels.gpu.launch import launch, power_of_two
from chronosae.kernels.gpu.ordered import LOWEST, kth_largest, ordered_key


def keep_largest(
    found: Candidates,
    values: Float[Tensor, "n w"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    bias: Float[Tensor, " w"] | None = None,
    *,
    by_feature: bool = False,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values (float32) and indices of the k largest positive candidates; indices ascending, unused slots (0, 0).

    Arguments:
        values: of the candidates; with `by_feature`, of all features, to which `bias` is added.
        active: tokens that get any; all by default.
    """
    n, room = found.indices.shape
    indices = torch.empty(n, k, dtype=torch.int64, device=values.device)
    kept = torch.empty(n, k, dtype=torch.float32, device=values.device)
    arguments = values, bias, found.indices, found.counts, active, indices, kept, values.shape[1], k, room
    block = power_of_two(room)
    launch(_keep, (n,), *arguments, BY_FEATURE=by_feature, BLOCK=block, num_warps=4 if block <= 1024 else 8)
    return kept, indices


@triton.jit
@no_type_check
def _keep(
    values, bias, found, counts, active, indices, kept, width, k, room, BY_FEATURE: tl.constexpr, BLOCK: tl.constexpr
):
    t = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    used = lane < tl.load(counts + t)
    if active is not None:
        used = used & (tl.load(active + t) != 0)
    feature = tl.load(found + t * room + lane, mask=used, other=0)
    value = tl.load(values + t * width + (feature if BY_FEATURE else lane), mask=used, other=0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + feature, mask=used, other=0).to(tl.float32)
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
