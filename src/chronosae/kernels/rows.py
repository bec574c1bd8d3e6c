"""A few rows of a large weight.

Shapes: F d_sae, D d_in, M rows.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.memory import recycled


def some_rows(W: Float[Tensor, "f d"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
    """`W[rows]`, rows distinct. Its gradient is as large as W, so that on the CPU its memory is used again."""
    if W.device.type != "cpu":
        return W.index_select(0, rows)
    return _SomeRows.apply(W, rows)  # pyright: ignore[reportReturnType]


class _SomeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = tuple(W.shape)
        return W.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        return recycled(ctx.shape, grad.dtype).zero_().index_copy_(0, rows, grad), None
