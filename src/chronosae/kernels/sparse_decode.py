"""Decode sparse codes without touching the features that did not fire.

Shapes: B batch, P pos, S slots, F d_sae, D d_in.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from chronosae.kernels.compiled import loops_for
from chronosae.kernels.gpu import gpu_kernels
from chronosae.kernels.slots import combine, decode_gradients


def sparse_decode(
    indices: Int[Tensor, "*tokens slots"],
    values: Float[Tensor, "*tokens slots"],
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"] | None = None,
) -> Float[Tensor, "*tokens d_in"]:
    """`sum_s values[..., s] * W_dec[indices[..., s]] + b_dec`, gradients to values, W_dec and b_dec.

    Reads S rows a token instead of F; equal to `dense_decode` up to the order of summation.
    """
    slots = indices.shape[-1]
    flat_indices, flat_values = indices.reshape(-1, slots), values.reshape(-1, slots).to(W_dec.dtype)
    weights = (W_dec,) if b_dec is None else (W_dec, b_dec)
    gpu = gpu_kernels(flat_values, *weights)
    if gpu is not None:
        recon = gpu.sparse_decode(flat_indices, flat_values, W_dec, b_dec)
    elif loops_for(*weights) is None:
        recon = functional.embedding_bag(flat_indices, W_dec, per_sample_weights=flat_values, mode="sum")
        recon = recon if b_dec is None else recon + b_dec
    else:
        recon = _Decode.apply(flat_indices.contiguous(), flat_values.contiguous(), W_dec.contiguous(), b_dec)
    return recon.reshape(*indices.shape[:-1], W_dec.shape[1])  # pyright: ignore[reportOptionalMemberAccess]


class _Decode(torch.autograd.Function):
    """Compiled; an embedding bag's gradients would gather a row for every slot."""

    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
        ctx.save_for_backward(indices, values, W_dec)
        return combine(indices, values.detach(), W_dec.detach(), None if b_dec is None else b_dec.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        indices, values, W_dec = ctx.saved_tensors
        grads = decode_gradients(indices, values.detach(), W_dec.detach(), grad.contiguous())
        return None, *grads, grad.sum(0) if ctx.needs_input_grad[3] else None


def dense_decode(
    indices: Int[Tensor, "*tokens slots"], values: Float[Tensor, "*tokens slots"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "*tokens d_in"]:
    """The reference of `sparse_decode`: scatter into a dense [*tokens, d_sae] tensor, then one product."""
    return scatter_dense(indices, values, W_dec.shape[0]) @ W_dec


def scatter_dense(
    indices: Int[Tensor, "*tokens slots"], values: Float[Tensor, "*tokens slots"], d_sae: int
) -> Float[Tensor, "*tokens d_sae"]:
    """Sparse codes as a dense tensor; slots that name the same feature (unused ones name 0 with value 0) add up."""
    dense = torch.zeros(*indices.shape[:-1], d_sae, dtype=values.dtype, device=values.device)
    return dense.scatter_add(-1, indices, values)
