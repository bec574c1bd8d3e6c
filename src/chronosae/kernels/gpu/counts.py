"""How often features are active. Sums of integers: the same whatever the order.

Shapes: N tokens, S slots, F d_sae.
"""

from typing import no_type_check

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.launch import launch, power_of_two


def count_active(
    indices: Int[Tensor, "n s"], values: Float[Tensor, "n s"], d_sae: int
) -> tuple[Int[Tensor, " f"], Int[Tensor, " n"]]:
    """As `kernels.count_active`, without waiting for the device."""
    n, slots = indices.shape
    features = torch.zeros(d_sae, dtype=torch.int64, device=values.device)
    tokens = torch.empty(n, dtype=torch.int64, device=values.device)
    arguments = values.contiguous(), indices.contiguous(), features, tokens, slots
    launch(_count, (n,), *arguments, BLOCK=power_of_two(slots, 16, 1024), num_warps=1)
    return features, tokens


@triton.jit
@no_type_check
def _count(values, indices, features, tokens, slots, BLOCK: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    active = tl.zeros([BLOCK], tl.int64)
    for start in range(0, slots, BLOCK):
        s = start + tl.arange(0, BLOCK)
        used = tl.load(values + t * slots + s, mask=s < slots, other=0) != 0
        f = tl.load(indices + t * slots + s, mask=used, other=0)
        tl.atomic_add(features + f, used.to(tl.int64), mask=used, sem="relaxed")
        active += used.to(tl.int64)
    tl.store(tokens + t, tl.sum(active, 0))
