"""Squared reconstruction error."""

from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders import Pass


def masked_mean(values: Float[Tensor, "*tokens"], mask: Bool[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    """Mean over tokens whose mask is True; 0 when there are none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def reconstruction_error(step: Pass) -> Float[Tensor, ""]:
    """`mean_t ||x_t - x_hat_t||^2`, summed over d_in, mean over unmasked tokens."""
    return masked_mean((step.target - step.recon).pow(2).sum(-1), step.mask)
