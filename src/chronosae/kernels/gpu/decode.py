"""Decoding sparse codes on a GPU.

Shapes: N tokens, S slots, F d_sae, D d_in.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.gpu.combine import combine
from chronosae.kernels.gpu.dots import dots
from chronosae.kernels.gpu.precision import low_dtype, lowered
from chronosae.kernels.gpu.slots import by_feature
from chronosae.kernels.gpu.weighted_rows import weighted_rows_and_dots


def sparse_decode(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W_dec: Float[Tensor, "f d"],
    b_dec: Float[Tensor, " d"] | None,
) -> Float[Tensor, "n d"]:
    """As `kernels.sparse_decode` for one row a token. Under autocast rows are read in its type, sums are in float32."""
    return _Decode.apply(indices.contiguous(), values, W_dec.contiguous(), b_dec)  # pyright: ignore[reportReturnType]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
        ctx.low = low_dtype(W_dec)
        values, W = values.detach().contiguous(), W_dec.detach()
        ctx.save_for_backward(indices, values, W)
        recon = combine(indices, values, lowered(W, ctx.low), None if b_dec is None else b_dec.detach())
        return recon.to(W_dec.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        indices, values, W = ctx.saved_tensors
        grad = grad.contiguous()
        slopes = lowered(grad, ctx.low)
        grad_W, grad_values = weighted_rows_and_dots(by_feature(indices, values, len(W)), values, slopes, W)
        # Slots of value 0 are in no feature's list, but have a gradient all the same.
        dots(slopes, W, indices, silent=values, out=grad_values)
        grad_b = grad.sum(0) if ctx.needs_input_grad[3] else None
        return None, grad_values.to(values.dtype), grad_W.to(W.dtype), grad_b
