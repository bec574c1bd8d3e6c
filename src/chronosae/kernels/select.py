"""The k largest positive entries of every row: listed, or kept in their places where k is a good part of a row.

Shapes: N rows (tokens), F or M entries of each, D d_in.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import gpu, loops
from chronosae.kernels.dispatch import compiled_kernels, evenly, parallel, recycled, recycled_product, triton_kernels
from chronosae.kernels.elementwise import squared_error
from chronosae.kernels.exact_choice import group_count
from chronosae.kernels.reference import largest_positive_dense


def largest_positive(pre: Float[Tensor, "n f"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values and indices of the k largest positive entries of each row; indices ascending, unused slots (0, 0).

    Of equal entries the first is taken. NaN counts as largest, so that it stays visible. No gradient.
    """
    if triton_kernels(pre):
        return gpu.select.largest_positive(pre, k)
    if pre.dtype != torch.float32 or not pre.is_contiguous() or not compiled_kernels(pre):
        return largest_positive_dense(pre, k)
    values, indices = pre.new_empty(len(pre), k), torch.empty(len(pre), k, dtype=torch.int64)
    rows, bits = pre.detach().numpy(), pre.detach().view(torch.int32).numpy()
    out = indices.numpy(), values.numpy()
    groups = group_count(k, pre.shape[1])
    parallel(evenly(len(pre), 16), lambda a, b: loops.select.largest(bits, rows, k, groups, a, b, *out))
    return values, indices


def error_of_largest(
    target: Float[Tensor, "n d"],
    pre: Float[Tensor, "n m"],
    k: int,
    rows: Float[Tensor, "m d"],
    active: Bool[Tensor, " n"],
    beside: Float[Tensor, "n d"],
) -> Float[Tensor, ""]:
    """`sum_t ||target_t - beside_t - sum_i pre[t, i] rows[i]||^2`, i over the k largest positive entries of a token.

    Over active tokens; the others don't matter. Gradients to `pre`, where it is among the largest, and to `rows` alone.
    """
    target, beside = target.detach(), beside.detach()
    if not compiled_kernels(target, beside, pre, rows):
        return error_of_largest_dense(target, pre, k, rows, active, beside)
    return _ErrorOfLargest.apply(target, pre, k, rows, active, beside)  # pyright: ignore[reportReturnType]


def error_of_largest_dense(
    target: Float[Tensor, "n d"],
    pre: Float[Tensor, "n m"],
    k: int,
    rows: Float[Tensor, "m d"],
    active: Bool[Tensor, " n"],
    beside: Float[Tensor, "n d"],
) -> Float[Tensor, ""]:
    """The reference of `error_of_largest`."""
    return squared_error((target - beside).detach(), rectify_largest_dense(pre, k) @ rows, active)


def rectify_largest(pre: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """`pre` where it is among the k largest positive entries of its row, else zero. No gradient."""
    pre = pre.detach().contiguous()
    if pre.dtype != torch.float32 or not compiled_kernels(pre):
        return rectify_largest_dense(pre, k)
    out = recycled(tuple(pre.shape), pre.dtype)
    parallel(evenly(len(pre), 16), lambda a, b: loops.select.rectify_largest(pre.numpy(), k, a, b, out.numpy()))
    return out


def rectify_largest_dense(pre: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """The reference of `rectify_largest`, with gradient where an entry is kept."""
    values, indices = largest_positive_dense(pre, min(k, pre.shape[1]))
    kept = torch.zeros_like(pre, dtype=torch.int64).scatter_add(-1, indices, (values != 0).long())
    return torch.where(kept > 0, pre, 0)


class _ErrorOfLargest(torch.autograd.Function):
    """At most two tensors of N x M at once, and one of N x D: the gradient of the sum is what is left, times a number
    that the products take in.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, pre: Tensor, k: int, rows: Tensor, active: Tensor, beside: Tensor) -> Tensor:
        kept, beyond = rectify_largest(pre, k), recycled(tuple(target.shape), target.dtype)
        torch.sub(beside, target, out=beyond).addmm_(kept, rows.detach())
        if not bool(active.all()):
            beyond.masked_fill_(~active.unsqueeze(1), 0)
        ctx.save_for_backward(kept, rows, beyond)
        return torch.linalg.vector_norm(beyond, dim=1).square_().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept, rows, beyond = ctx.saved_tensors
        scale, grad_pre, grad_rows = 2 * float(grad), None, None
        if ctx.needs_input_grad[3]:
            grad_rows = recycled_product(kept.T, beyond, scale)
        if ctx.needs_input_grad[1]:
            grad_pre = recycled_product(beyond, rows.T, scale)
            # In place: zero where nothing was kept. What was kept is positive, or NaN.
            torch.ops.aten.threshold_backward.grad_input(grad_pre, kept, 0, grad_input=grad_pre)
        return None, grad_pre, None, grad_rows, None, None
