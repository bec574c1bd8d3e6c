"""Sums over the unmasked tokens of a batch, one number a feature, for sparse and dense codes alike."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes, SparseCodes


def masked_values(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Float[Tensor, "*tokens slots"]:
    """The codes' values, zero at masked tokens."""
    return codes.values if mask is None else torch.where(mask[..., None], codes.values, 0)


def per_feature(codes: Codes, amounts: Tensor) -> Tensor:
    """Sum `amounts [*tokens slots]`, laid out as the codes' values, into `[d_sae]`."""
    if isinstance(codes, SparseCodes):
        total = amounts.new_zeros(codes.d_sae)
        return total.index_add_(0, codes.indices.flatten(), amounts.flatten())
    return amounts.flatten(0, -2).sum(0)


def fired_on(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Int[Tensor, " d_sae"]:
    """Unmasked tokens each feature fired on."""
    return per_feature(codes, (masked_values(codes, mask) != 0).long())


def absolute_sum(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Float[Tensor, " d_sae"]:
    """Sum of |activation| over unmasked tokens, in float32 or better."""
    values = masked_values(codes, mask).abs()
    return per_feature(codes, values.to(torch.promote_types(values.dtype, torch.float32)))


def count_tokens(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Int[Tensor, ""]:
    """Unmasked tokens, on the codes' device (no synchronisation)."""
    if mask is None:
        return torch.tensor(codes.values.shape[:-1].numel(), device=codes.values.device)
    return mask.sum()
