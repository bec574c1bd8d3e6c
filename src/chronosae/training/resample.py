"""Re-initialises dead features at tokens that are reconstructed badly (Bricken et al. 2023, appendix)."""

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim import Optimizer

from chronosae.autoencoders import Autoencoder, Pass

# Encoder norm of a new feature relative to the mean of the living ones: weak at first, so that it disturbs little.
ENCODER_SCALE = 0.2


@torch.no_grad()
def resample(
    sae: Autoencoder, optimizer: Optimizer, step: Pass, dead: Bool[Tensor, " d_sae"], generator: torch.Generator
) -> int:
    """Point each dead feature at an input drawn with probability proportional to its squared loss. Returns how many."""
    n_dead = int(dead.sum())
    if n_dead == 0:
        return 0
    error = (step.target - step.recon)[step.mask]
    # The draw is made on the CPU so that a seed means the same on every device.
    weights = error.pow(2).sum(-1).pow(2).double().cpu() + 1e-12
    chosen = torch.multinomial(weights, n_dead, replacement=True, generator=generator).to(error.device)
    directions = (step.target[step.mask] - sae.b_dec)[chosen]
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    alive_norm = sae.W_enc[:, ~dead].norm(dim=0).mean() if n_dead < len(dead) else sae.W_enc.new_tensor(1.0)
    sae.W_dec[dead] = directions
    sae.W_enc[:, dead] = (ENCODER_SCALE * alive_norm * directions).T
    sae.b_enc[dead] = 0
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[sae.W_dec][name][dead] = 0
        optimizer.state[sae.W_enc][name][:, dead] = 0
        optimizer.state[sae.b_enc][name][dead] = 0
    return n_dead
