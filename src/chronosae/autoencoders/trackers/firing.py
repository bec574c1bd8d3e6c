"""How often each feature fires: recently, and since the start."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.trackers.state import TensorState
from chronosae.autoencoders.trackers.sums import count_tokens, fired_on


class FiringFrequency(TensorState):
    """Share of unmasked tokens each feature fired on.

    `recent` is an exponential moving average over updates, m <- (1 - alpha) m + alpha share, corrected for its start at
    zero by 1 / (1 - (1 - alpha)^updates); `overall` is fired / tokens since the start.

    Args:
        d_sae: number of features.
        alpha: weight of the newest batch, in (0, 1].
    """

    _tensors = ("average", "updates", "fired", "tokens")

    def __init__(self, d_sae: int, alpha: float = 0.01, device: torch.device | str = "cpu") -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is the weight of the newest batch and lies in (0, 1]; got {alpha}")
        self.alpha = alpha
        self.average = torch.zeros(d_sae, device=device)
        self.updates = torch.zeros((), dtype=torch.int64, device=device)
        self.fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, codes: Codes, mask: Bool[Tensor, "*tokens"] | None = None) -> None:
        """Account for one batch; tokens where `mask` is False are not counted, and a batch of none changes nothing."""
        fired, tokens = fired_on(codes, mask), count_tokens(codes, mask)
        share = fired / tokens.clamp(min=1)
        self.average += torch.where(tokens > 0, self.alpha, 0.0) * (share - self.average)
        self.updates += (tokens > 0).long()
        self.fired += fired
        self.tokens += tokens

    def recent(self) -> Float[Tensor, " d_sae"]:
        """Share of tokens, weighted towards the latest batches (0 before the first)."""
        weight = 1 - (1 - self.alpha) ** self.updates.to(self.average.dtype)
        return self.average / weight.clamp(min=torch.finfo(self.average.dtype).tiny)

    def overall(self) -> Float[Tensor, " d_sae"]:
        """Share of all tokens seen (0 before the first)."""
        return self.fired.to(self.average.dtype) / self.tokens.clamp(min=1)
