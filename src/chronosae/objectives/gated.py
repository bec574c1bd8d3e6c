"""The two terms that train a gated autoencoder's gates (Rajamanoharan et al. 2024, arXiv 2404.16014, equation 8)."""

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import Pass
from chronosae.objectives.reconstruction import masked_mean


def gate_l1(step: Pass) -> Float[Tensor, ""]:
    """`mean_t sum_f relu(pre_tf)`: the decoder's rows have norm 1."""
    return masked_mean(torch.relu(step.pre).sum(-1), step.mask)


def gate_error(step: Pass, W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"]) -> Float[Tensor, ""]:
    """`mean_t ||x_t - relu(pre_t) W_dec - b_dec||^2`, with the decoder frozen: only gates learn from it."""
    recon = torch.relu(step.pre) @ W_dec.detach() + b_dec.detach()
    return masked_mean((step.target - recon).pow(2).sum(-1), step.mask)
