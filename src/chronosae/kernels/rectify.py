"""Rectification that keeps the k largest of a row, in place: for a k that is a good part of the row.

Shapes: N tokens, M features.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel, sure_loops
from chronosae.kernels.memory import recycled
from chronosae.kernels.select import largest_positive_dense


def rectify_largest(pre: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """`pre` where it is among the k largest positive entries of its row, else zero. Gradient where it is kept."""
    if loops_for(pre) is None or pre.dtype != torch.float32:
        return rectify_largest_dense(pre, k)
    return _RectifyLargest.apply(pre.contiguous(), k)  # pyright: ignore[reportReturnType]


def rectify_largest_dense(pre: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """The reference of `rectify_largest`."""
    values, indices = largest_positive_dense(pre, min(k, pre.shape[1]))
    kept = torch.zeros_like(pre, dtype=torch.int64).scatter_add(-1, indices, (values != 0).long())
    return torch.where(kept > 0, pre, 0)


class _RectifyLargest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, k: int) -> Tensor:
        loops, out = sure_loops(pre), recycled(tuple(pre.shape), pre.dtype)
        parallel(evenly(len(pre), 16), lambda a, b: loops.rectify_largest(pre.detach().numpy(), k, a, b, out.numpy()))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (kept,) = ctx.saved_tensors
        return torch.mul(grad, kept != 0, out=recycled(tuple(grad.shape), grad.dtype)), None
