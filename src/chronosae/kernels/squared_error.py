"""Squared distances of tokens, summed: one pass forward, one backward.

Shapes: N tokens, D d_in.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel, sure_loops
from chronosae.kernels.gpu import gpu_kernels
from chronosae.kernels.memory import recycled


def squared_error(
    target: Float[Tensor, "*tokens d"], estimate: Float[Tensor, "*tokens d"], active: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """`sum_t ||target_t - estimate_t||^2` over active tokens; the others don't matter. Gradients to both."""
    gpu = gpu_kernels(target, estimate)
    if gpu is None and loops_for(target, estimate) is None:
        return squared_error_dense(target, estimate, active)
    flat = target.reshape(-1, target.shape[-1]).contiguous(), estimate.reshape(-1, target.shape[-1]).contiguous()
    tokens = *flat, active.reshape(-1).contiguous()
    return _SquaredError.apply(*tokens) if gpu is None else gpu.squared_error(*tokens)  # pyright: ignore[reportReturnType]


def squared_error_dense(
    target: Float[Tensor, "*tokens d"], estimate: Float[Tensor, "*tokens d"], active: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """The reference of `squared_error`."""
    return torch.where(active.unsqueeze(-1), target - estimate, 0).pow(2).sum(-1).sum()


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, estimate: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(target, estimate, active)
        loops, energy = sure_loops(target), target.new_empty(len(target))
        before = [t.detach().numpy() for t in (target, estimate, active)]
        parallel(evenly(len(target), 64), lambda a, b: loops.squared_distance(*before, a, b, energy.numpy()))
        return energy.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        target, estimate, active = ctx.saved_tensors
        loops, out = sure_loops(target), recycled(tuple(target.shape), target.dtype)
        before = [t.detach().numpy() for t in (target, estimate, active)]
        scale = before[0].dtype.type(2 * float(grad))
        parallel(evenly(len(out), 64), lambda a, b: loops.scaled_difference(*before, scale, a, b, out.numpy()))
        return (-out if ctx.needs_input_grad[0] else None), out, None
