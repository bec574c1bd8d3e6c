"""How much each feature contributes to what is reconstructed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.trackers.state import TensorState
from chronosae.autoencoders.trackers.sums import absolute_sum, count_tokens


class FeatureImportance(TensorState):
    """I_f = EMA over updates of mean_t |z_{t,f}| * ||W_dec,f||_2, t over unmasked tokens.

    |z_f| ||W_dec,f|| is the length of what feature f adds to the reconstruction, in units of the autoencoder's input,
    so rescaling z_f against its decoder row changes nothing. The average is corrected for its start at zero.

    Args:
        d_sae: number of features.
        alpha: weight of the newest batch, in (0, 1].
    """

    _tensors = ("average", "updates")

    def __init__(self, d_sae: int, alpha: float = 0.01, device: torch.device | str = "cpu") -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is the weight of the newest batch and lies in (0, 1]; got {alpha}")
        self.alpha = alpha
        self.average = torch.zeros(d_sae, device=device)
        self.updates = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(
        self, codes: Codes, W_dec: Float[Tensor, "d_sae d_in"], mask: Bool[Tensor, "*tokens"] | None = None
    ) -> None:
        """Account for one batch; a batch without unmasked tokens changes nothing."""
        tokens = count_tokens(codes, mask)
        share = absolute_sum(codes, mask) / tokens.clamp(min=1) * W_dec.norm(dim=-1)
        self.average += torch.where(tokens > 0, self.alpha, 0.0) * (share.to(self.average.dtype) - self.average)
        self.updates += (tokens > 0).long()

    def value(self) -> Float[Tensor, " d_sae"]:
        """I_f (0 before the first update)."""
        weight = 1 - (1 - self.alpha) ** self.updates.to(self.average.dtype)
        return self.average / weight.clamp(min=torch.finfo(self.average.dtype).tiny)
