"""A few rows, or a few entries, of a large weight.

Shapes: F d_sae, D d_in, M rows, P rows of gates.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.memory import recycled


def some_rows(W: Float[Tensor, "f d"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
    """`W[rows]`, rows ascending. The gradient to weights on the CPU (to a leaf of the graph) is sparse.

    Whoever uses all of W, earlier in the forward pass, has it added to its own gradient in place: a dense one, as large
    as W and mostly zero, would cost more time and memory than all else here.
    """
    if not _on_cpu(W) or not W.is_leaf:
        return W.index_select(0, rows)
    return _SomeRows.apply(W, rows)  # pyright: ignore[reportReturnType]


class _SomeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = tuple(W.shape)
        return gathered(W.detach(), rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        sparse = torch.sparse_coo_tensor(rows.unsqueeze(0), grad, ctx.shape, is_coalesced=True, check_invariants=False)
        return sparse, None


@torch.no_grad()
def gathered(W: Float[Tensor, "f d"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
    """`W[rows]` of weights on the CPU, without gradient, in memory that is used again."""
    return torch.index_select(W, 0, rows, out=recycled((len(rows), W.shape[1]), W.dtype))


def some_entries(W: Float[Tensor, "p f"], rows: Int[Tensor, "*#n"], columns: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """`W[rows, columns]`, which may repeat. On the CPU, the memory of its gradient, as large as W, is used again."""
    if not _on_cpu(W):
        return W[rows, columns]
    return _SomeEntries.apply(W, (rows * W.shape[1] + columns).flatten()).view(columns.shape)  # pyright: ignore


class _SomeEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = tuple(W.shape)
        return W.reshape(-1).index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        out = recycled(ctx.shape, grad.dtype).zero_()
        out.view(-1).index_add_(0, places, grad)
        return out, None


@torch.no_grad()
def sigmoid(logits: Float[Tensor, "p f"]) -> Float[Tensor, "p f"]:
    """Without gradient; on the CPU, in memory that is used again."""
    return (
        torch.sigmoid(logits, out=recycled(tuple(logits.shape), logits.dtype)) if _on_cpu(logits) else logits.sigmoid()
    )


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
