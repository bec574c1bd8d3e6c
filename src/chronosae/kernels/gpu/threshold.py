"""BatchTopK of a linear encoder on a GPU: one threshold for a whole batch, applied to each token's largest entries.

Shapes: N tokens, F d_sae, D d_in, M further features, S slots, T entries taken of each token.
"""

from typing import no_type_check

import torch
import triton
from jaxtyping import Bool, Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.encode import choose, with_gradient
from chronosae.kernels.gpu.largest import MOST
from chronosae.kernels.gpu.launch import launch, power_of_two
from chronosae.kernels.gpu.precision import low_dtype, without_autocast

# Entries taken of a token at least, and of how many times the mean.
LEAST, TIMES = 64, 8
# Where no mean is known.
ROOM = 512

Chosen = tuple[Float[Tensor, "n s"], Int[Tensor, "n s"], Float[Tensor, "n m"] | None]


def encode_threshold(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
    *,
    count: int | None = None,
    threshold: float = 0.0,
) -> tuple[Chosen, Float[Tensor, ""]] | None:
    """As `kernels.encode_threshold`, in the precision of `encode_topk`; None where some token has too many entries.

    Waits for the device once, to learn how many slots the fullest token needs.
    """
    n, low, W = len(x), low_dtype(x), W.contiguous()
    taken = min(len(W), ROOM if count is None else max(LEAST, TIMES * -(-count // max(n, 1))))
    if n == 0 or taken > MOST:
        return None
    h = (x if centre is None else x.detach()).contiguous()
    with without_autocast(x.device):
        values, indices = choose(h.detach(), W.detach(), bias.detach(), taken, active, low)
        reached = values.new_tensor(threshold) if count is None else _count_th(values, count)
        # NaN stays visible, as in TopK.
        kept = ~(values < reached) & ~(values <= 0)
        slots = int(kept.sum(1).max())
        if slots == taken < len(W):
            return None
        chosen = _compact(values, indices, kept, max(slots, 1))
        return with_gradient(h, W, bias, active, centre, wanted, chosen, low), reached


def _count_th(values: Float[Tensor, "n t"], count: int) -> Float[Tensor, ""]:
    """The count-th largest positive value (the smallest positive one if fewer are; Inf if none is)."""
    largest = values.flatten().topk(min(max(count, 1), values.numel()), sorted=False).values.amin()
    return torch.where(largest <= 0, torch.where(values > 0, values, torch.inf).amin(), largest)


def _compact(
    values: Float[Tensor, "n t"], indices: Int[Tensor, "n t"], kept: Bool[Tensor, "n t"], slots: int
) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
    """The kept entries in their order, after the unused slots (0, 0)."""
    n, taken = values.shape
    out = values.new_zeros(n, slots), indices.new_zeros(n, slots)
    launch(_move, (n,), values, indices, kept, *out, taken, slots, BLOCK=power_of_two(taken))
    return out


@triton.jit
@no_type_check
def _move(values, indices, kept, out_values, out_indices, taken, slots, BLOCK: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    place = t * taken + lane
    used = tl.load(kept + place, mask=lane < taken, other=0) != 0
    before = slots - tl.sum(used.to(tl.int32), 0)
    slot = t * slots + before + tl.cumsum(used.to(tl.int32), 0) - 1
    tl.store(out_values + slot, tl.load(values + place, mask=used, other=0), mask=used)
    tl.store(out_indices + slot, tl.load(indices + place, mask=used, other=0), mask=used)
