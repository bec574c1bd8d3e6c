"""Sums of weight rows over a token's slots.

All programs of one block of columns run before those of the next, so that the block's columns of the whole weight, a
few megabytes, stay in the device's cache.

Shapes: N tokens, S slots, F d_sae, D d_in.
"""

from typing import no_type_check

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.launch import launch, power_of_two, sum_dtype, sum_type

BLOCK_S, MOST_D = 16, 256


def combine(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "n d"]:
    """`sum_s values[t, s] W[indices[t, s]] + bias` for each token t, in float32 or float64."""
    (n, slots), width = indices.shape, W.shape[1]
    out = torch.empty(n, width, dtype=sum_dtype(values, W), device=W.device)
    block = power_of_two(width, 16, MOST_D)
    constants = {"SUM": sum_type(values, W), "BLOCK_S": BLOCK_S, "BLOCK_D": block}
    arguments = indices.contiguous(), values.contiguous(), W, bias, out, slots, width
    launch(_combine, (n, triton.cdiv(width, block)), *arguments, **constants)
    return out


@triton.jit
@no_type_check
def _combine(
    indices, values, W, bias, out, slots, width, SUM: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr
):
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_S, BLOCK_D], SUM)
    for start in range(0, slots, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        value = tl.load(values + t * slots + s, mask=s < slots, other=0).to(SUM)
        f = tl.load(indices + t * slots + s, mask=s < slots, other=0).to(tl.int64)
        # Unused slots read nothing. A NaN isn't zero, and stays.
        inside = (value != 0)[:, None] & (d < width)[None, :]
        total += value[:, None] * tl.load(W + f[:, None] * width + d[None, :], mask=inside, other=0).to(SUM)
    row = tl.sum(total, 0)
    if bias is not None:
        row += tl.load(bias + d, mask=d < width, other=0).to(SUM)
    tl.store(out + t * width + d, row, mask=d < width)
