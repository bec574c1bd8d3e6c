"""AuxK: dead features learn from what the living leave unexplained."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders import Pass
from chronosae.kernels import error_of_largest, some_rows, sparse_decode
from chronosae.objectives.reconstruction import mean_squared_error

# Where at least one dead feature in so many takes part at a token, a dense product is faster than sums over slots.
DENSE_RATIO = 4


def auxk_error(
    step: Pass, W_dec: Float[Tensor, "d_sae d_in"], dead: Bool[Tensor, " d_sae"], k_aux: int
) -> Float[Tensor, ""] | None:
    """`mean_t ||e_t - e_hat_t||^2 * min(n_dead / k_aux, 1)`; None when no feature is dead.

    e is the reconstruction error (detached) and e_hat the sum of the `k_aux` strongest dead features at each token
    (Gao et al. 2024, arXiv 2406.04093, section A.2). The factor keeps a handful of dead features from being asked to
    explain the whole error. Gradients reach both encoder and decoder of the dead features.
    """
    candidates = dead.nonzero().squeeze(1)
    if len(candidates) == 0:
        return None
    pre = step.pre_of(candidates).flatten(0, -2)
    if len(candidates) <= DENSE_RATIO * k_aux:
        target, recon, mask = step.target.flatten(0, -2), step.recon.flatten(0, -2), step.mask.flatten()
        energy = error_of_largest(target, pre, k_aux, some_rows(W_dec, candidates), mask, recon)
        error = energy / mask.sum().clamp_min(1)
    else:
        values, local = torch.relu(pre).topk(k_aux, dim=-1, sorted=False)
        estimate = sparse_decode(candidates[local], values, W_dec)
        error = mean_squared_error((step.target - step.recon).detach(), estimate.view(step.target.shape), step.mask)
    return error * min(len(candidates) / k_aux, 1.0)
