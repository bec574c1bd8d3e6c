"""How fast codes change against how fast their input does."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders import Codes


def lipschitz(
    codes: Codes,
    acts: Float[Tensor, "batch pos d_in"],
    mask: Bool[Tensor, "batch pos"],
    n_features: int | None = None,
) -> float:
    """Mean over features that fire in a sequence of `max_t |z_t - z_{t-1}| / ||x_t - x_{t-1}||`; lower is smoother.

    The smoothness of Bhalla et al. (arXiv 2511.05541), over the first `n_features` features (all by default).

    Raises:
        ValueError: none of the features fires.
    """
    z = codes.dense()[..., :n_features].double()
    moved = (acts[:, 1:] - acts[:, :-1]).double().norm(dim=-1, keepdim=True)
    # Between equal inputs no slope is defined.
    pairs = (mask[:, 1:] & mask[:, :-1]).unsqueeze(-1) & (moved > 1e-6 * acts.double().norm(dim=-1).mean())
    steepest = torch.where(pairs, (z[:, 1:] - z[:, :-1]).abs() / moved.clamp_min(1e-12), 0).amax(1)
    fires = (z != 0).any(1)
    if not fires.any():
        raise ValueError("lipschitz: none of the features fires")
    return float(steepest[fires].mean())
