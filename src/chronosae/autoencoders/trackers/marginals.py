"""How often every feature fires at the end, and l positions before the end, of the pairs of tokens that count."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders.trackers.history import History
from chronosae.autoencoders.trackers.state import TensorState
from chronosae.kernels import Marginals, count_marginals


class LagMarginals(TensorState):
    """Per lag l = 1..w (row l - 1): N_l pairs (t - l, t), n_j(l) of them with j firing at t - l, m_i(l) with i at t."""

    _tensors = ("source", "target", "pairs")

    def __init__(self, d_sae: int, window: int, device: torch.device | str = "cpu") -> None:
        self.source = torch.zeros(window, d_sae, dtype=torch.float64, device=device)
        self.target = torch.zeros(window, d_sae, dtype=torch.float64, device=device)
        self.pairs = torch.zeros(window, dtype=torch.float64, device=device)

    def add(self, seen: History) -> None:
        """Count these targets."""
        if count_marginals(seen.firings(), seen.valid, self.counted()):
            return
        for lag in range(len(self.pairs)):
            past = seen.past_features[:, lag][seen.past_values[:, lag] != 0]
            now = seen.features[(seen.values != 0) & seen.valid[:, lag, None]]
            self.source[lag] += torch.bincount(past, minlength=self.source.shape[1])
            self.target[lag] += torch.bincount(now, minlength=self.source.shape[1])
        self.pairs += seen.valid.sum(0)

    def rate(self, feature: Int[Tensor, "*n"], lag: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Firing probability of a target over pairs at that lag (0 before any)."""
        return self.target[lag - 1, feature] / self.pairs[lag - 1].clamp(min=1)

    def counted(self) -> Marginals:
        """What was counted, as kernels take it."""
        return Marginals(self.source, self.target, self.pairs)

    def halve(self) -> None:
        """Forget half of what was counted."""
        for tensor in (self.source, self.target, self.pairs):
            tensor.mul_(0.5)
