"""Sparsity penalties: L1 on the codes, L0 through learned thresholds."""

from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import DenseCodes, Pass
from chronosae.autoencoders.parts.activations import Activation, JumpReLUActivation
from chronosae.objectives.reconstruction import masked_mean


def l1_penalty(step: Pass, W_dec: Float[Tensor, "d_sae d_in"], *, decoder_weighted: bool = False) -> Float[Tensor, ""]:
    """`mean_t sum_f |z_tf|`, each feature times `||W_dec_f||` when `decoder_weighted` (Conerly et al. 2024).

    The weighted form can't be lowered by shrinking codes and growing the decoder, so the decoder may stay free.
    """
    if not decoder_weighted:
        return masked_mean(step.codes.values.abs().sum(-1), step.mask)
    if not isinstance(step.codes, DenseCodes):
        raise TypeError("the decoder-weighted L1 penalty needs dense codes, one value a feature")
    return masked_mean(step.codes.values.abs() @ W_dec.norm(dim=1), step.mask)


def l0_penalty(step: Pass, activation: Activation) -> Float[Tensor, ""]:
    """`mean_t ||z_t||_0`, its gradient to the thresholds through a rectangle (arXiv 2407.14435, section 4)."""
    if not isinstance(activation, JumpReLUActivation):
        raise TypeError("the L0 penalty needs the thresholds of jump_relu")
    return masked_mean(activation.steps(step.pre).sum(-1), step.mask)
