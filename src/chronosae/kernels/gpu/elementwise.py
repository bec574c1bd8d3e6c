"""Squared distances of tokens, summed: one pass forward, one backward.

Shapes: N tokens, D d_in.
"""

from typing import Any, no_type_check

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

from chronosae.kernels.gpu.base import launch, power_of_two, sum_dtype, sum_type


def squared_error(
    target: Float[Tensor, "n d"], estimate: Float[Tensor, "n d"], active: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """As `kernels.squared_error` for one row a token; the sum is in float32 or float64."""
    return _SquaredError.apply(target.contiguous(), estimate.contiguous(), active.contiguous())  # pyright: ignore[reportReturnType]


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, estimate: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(target, estimate, active)
        (n, width), dtype = target.shape, sum_dtype(target, estimate)
        energy = torch.empty(n, dtype=dtype, device=target.device)
        arguments = target.detach(), estimate.detach(), active, energy, width
        launch(_distance, (n,), *arguments, SUM=sum_type(target, estimate), BLOCK=power_of_two(width, 16, 1024))
        return energy.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        target, estimate, active = ctx.saved_tensors
        (n, width), out = target.shape, torch.empty_like(estimate)
        arguments = target, estimate, active, grad.contiguous(), out, width
        launch(_difference, (n,), *arguments, SUM=sum_type(target, estimate), BLOCK=power_of_two(width, 16, 1024))
        return (-out.to(target.dtype) if ctx.needs_input_grad[0] else None), out, None


@triton.jit
@no_type_check
def _distance(target, estimate, active, energy, width, SUM: tl.constexpr, BLOCK: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], SUM)
    if tl.load(active + t) != 0:
        for start in range(0, width, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(target + t * width + i, mask=i < width, other=0).to(SUM)
            rest = x - tl.load(estimate + t * width + i, mask=i < width, other=0).to(SUM)
            total += rest * rest
    tl.store(energy + t, tl.sum(total, 0))


@triton.jit
@no_type_check
def _difference(target, estimate, active, grad, out, width, SUM: tl.constexpr, BLOCK: tl.constexpr):
    """`2 grad (estimate - target)` for active tokens, zero for the others."""
    t = tl.program_id(0).to(tl.int64)
    used, scale = tl.load(active + t) != 0, 2 * tl.load(grad).to(SUM)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = (i < width) & used
        x = tl.load(target + t * width + i, mask=inside, other=0).to(SUM)
        y = tl.load(estimate + t * width + i, mask=inside, other=0).to(SUM)
        tl.store(out + t * width + i, tl.where(inside, scale * (y - x), 0), mask=i < width)
