"""Nested reconstruction: the first features of the dictionary must do alone (Matryoshka, arXiv 2503.17547)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import Codes, Pass, SparseCodes
from chronosae.autoencoders.layout import Layout
from chronosae.objectives.reconstruction import mean_squared_error


def nested_error(
    step: Pass,
    reconstruct: Callable[[Codes, Layout | None], Tensor],
    d_sae: int,
    prefixes: Sequence[float],
    weights: Sequence[float],
) -> Float[Tensor, ""]:
    """`sum_i w_i mean_t ||x_t - z_t[:m_i] W_dec[:m_i] - b_dec||^2`, m_i the prefix's share of d_sae.

    `reconstruct` is the autoencoder's own, `z W_dec + b_dec` in normalised units.
    """
    total = step.target.new_zeros(())
    for share, weight in zip(prefixes, weights, strict=True):
        recon = reconstruct(first_features(step.codes, prefix_size(share, d_sae)), step.layout)
        total = total + weight * mean_squared_error(step.target, recon, step.mask)
    return total


def prefix_size(share: float, d_sae: int) -> int:
    """Number of features in a prefix, at least one."""
    return max(1, round(share * d_sae))


def first_features(codes: Codes, n: int) -> Codes:
    """The same codes with all but the first n features silent."""
    if isinstance(codes, SparseCodes):
        return replace(codes, values=torch.where(codes.indices < n, codes.values, 0))
    keep = torch.arange(codes.d_sae, device=codes.values.device) < n
    return replace(codes, values=codes.values * keep)
