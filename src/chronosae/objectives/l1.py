"""L1 penalty on the codes."""

from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import DenseCodes, Pass
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
