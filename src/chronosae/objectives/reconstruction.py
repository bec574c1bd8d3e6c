"""Squared reconstruction error."""

from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders import Pass
from chronosae.kernels import squared_error


def masked_mean(values: Float[Tensor, "*tokens"], mask: Bool[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    """Mean over tokens whose mask is True; 0 when there are none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def reconstruction_error(step: Pass) -> Float[Tensor, ""]:
    """`mean_t ||x_t - x_hat_t||^2`, summed over d_in, mean over unmasked tokens."""
    return mean_squared_error(step.target, step.recon, step.mask)


def mean_squared_error(
    target: Float[Tensor, "*tokens d"], estimate: Float[Tensor, "*tokens d"], mask: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """`mean_t ||target_t - estimate_t||^2` over unmasked tokens; 0 when there are none."""
    return squared_error(target, estimate, mask) / mask.sum().clamp_min(1)
