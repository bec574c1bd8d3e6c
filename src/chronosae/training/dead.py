"""Which features have stopped firing, counted in tokens so that the batch size doesn't matter."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.autoencoders import Codes


class DeadFeatures:
    """Unmasked tokens since each feature last fired."""

    def __init__(self, d_sae: int, after_tokens: int, device: torch.device | str = "cpu") -> None:
        self.after_tokens = after_tokens
        self.since_fired: Int[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, codes: Codes, n_tokens: Int[Tensor, ""]) -> None:
        """Account for one batch with `n_tokens` unmasked tokens."""
        self.since_fired.add_(n_tokens).masked_fill_(codes.fired() > 0, 0)

    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Features that haven't fired for more than `after_tokens` tokens."""
        return self.since_fired > self.after_tokens

    def revive(self, features: Bool[Tensor, " d_sae"]) -> None:
        """Give freshly re-initialised features their full time again."""
        self.since_fired.masked_fill_(features, 0)
