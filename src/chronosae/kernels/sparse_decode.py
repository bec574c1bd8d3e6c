"""Decode sparse codes without touching the features that did not fire.

Shapes: B batch, P pos, S slots, F d_sae, D d_in.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def sparse_decode(
    indices: Int[Tensor, "*tokens slots"], values: Float[Tensor, "*tokens slots"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "*tokens d_in"]:
    """`sum_s values[..., s] * W_dec[indices[..., s]]`, gradients to values and W_dec.

    An embedding bag reads S rows a token instead of F; equal to `dense_decode` up to the order of summation.
    """
    slots = indices.shape[-1]
    recon = functional.embedding_bag(
        indices.reshape(-1, slots), W_dec, per_sample_weights=values.reshape(-1, slots).to(W_dec.dtype), mode="sum"
    )
    return recon.reshape(*indices.shape[:-1], W_dec.shape[1])


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
