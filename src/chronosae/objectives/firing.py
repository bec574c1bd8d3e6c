"""How often each feature fires, recently and since the start, and how much it adds to what is reconstructed."""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from chronosae.autoencoders import Codes, SparseCodes
from chronosae.autoencoders.parts.terms import TRACKERS, TrackerSpec
from chronosae.objectives.term import StepContext
from chronosae.objectives.tracker import TensorState


class RunningMean(TensorState):
    """An exponential moving average over batches, one number a feature: m <- (1 - alpha) m + alpha x.

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

    def include(self, x: Float[Tensor, " d_sae"], tokens: Int[Tensor, ""]) -> None:
        """Account for a batch of so many tokens; one of none changes nothing."""
        self.average += torch.where(tokens > 0, self.alpha, 0.0) * (x.to(self.average.dtype) - self.average)
        self.updates += (tokens > 0).long()

    def mean(self) -> Float[Tensor, " d_sae"]:
        """m corrected for its start at zero, by 1 / (1 - (1 - alpha)^updates); 0 before the first update."""
        weight = 1 - (1 - self.alpha) ** self.updates.to(self.average.dtype)
        return self.average / weight.clamp(min=torch.finfo(self.average.dtype).tiny)


@TRACKERS.add
class FiringTracker(TrackerSpec):
    """Share of tokens that each feature fires on."""

    kind: Literal["firing"] = "firing"
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the newest batch in the running mean."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> "FiringFrequency":
        return FiringFrequency(d_sae, self.alpha, device)

    def show(self, tracker: "FiringFrequency", step: StepContext) -> None:
        tracker.update(step.forward.codes, step.forward.mask)


class FiringFrequency(RunningMean):
    """Share of unmasked tokens each feature fired on: a running mean, and fired / tokens since the start."""

    _tensors = ("average", "updates", "fired", "tokens")

    def __init__(self, d_sae: int, alpha: float = 0.01, device: torch.device | str = "cpu") -> None:
        super().__init__(d_sae, alpha, device)
        self.fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, codes: Codes, mask: Bool[Tensor, "*tokens"] | None = None) -> None:
        """Account for one batch; tokens where `mask` is False are not counted, and a batch of none changes nothing."""
        fired, tokens = fired_on(codes, mask), count_tokens(codes, mask)
        self.include(fired / tokens.clamp(min=1), tokens)
        self.fired += fired
        self.tokens += tokens

    def recent(self) -> Float[Tensor, " d_sae"]:
        """Share of tokens, weighted towards the latest batches (0 before the first)."""
        return self.mean()

    def overall(self) -> Float[Tensor, " d_sae"]:
        """Share of all tokens seen (0 before the first)."""
        return self.fired.to(self.average.dtype) / self.tokens.clamp(min=1)


@TRACKERS.add
class ImportanceTracker(TrackerSpec):
    """Running mean of how much each feature adds to the reconstruction."""

    kind: Literal["importance"] = "importance"
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the newest batch in the running mean."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> "FeatureImportance":
        return FeatureImportance(d_sae, self.alpha, device)

    def show(self, tracker: "FeatureImportance", step: StepContext) -> None:
        tracker.update(step.forward.codes, step.sae.W_dec, step.forward.mask)


class FeatureImportance(RunningMean):
    """I_f = EMA over updates of mean_t |z_{t,f}| * ||W_dec,f||_2, t over unmasked tokens.

    |z_f| ||W_dec,f|| is the length of what feature f adds to the reconstruction, in units of the autoencoder's input,
    so rescaling z_f against its decoder row changes nothing.
    """

    @torch.no_grad()
    def update(
        self, codes: Codes, W_dec: Float[Tensor, "d_sae d_in"], mask: Bool[Tensor, "*tokens"] | None = None
    ) -> None:
        """Account for one batch; a batch without unmasked tokens changes nothing."""
        tokens = count_tokens(codes, mask)
        self.include(absolute_sum(codes, mask) / tokens.clamp(min=1) * W_dec.norm(dim=-1), tokens)

    def value(self) -> Float[Tensor, " d_sae"]:
        """I_f (0 before the first update)."""
        return self.mean()


# Sums over the unmasked tokens of a batch, one number a feature, for sparse and dense codes alike.


def masked_values(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Float[Tensor, "*tokens slots"]:
    """The codes' values, zero at masked tokens."""
    return codes.values if mask is None else torch.where(mask[..., None], codes.values, 0)


def per_feature(codes: Codes, amounts: Tensor) -> Tensor:
    """Sum `amounts [*tokens slots]`, laid out as the codes' values, into `[d_sae]`."""
    if isinstance(codes, SparseCodes):
        total = amounts.new_zeros(codes.d_sae)
        return total.index_add_(0, codes.indices.flatten(), amounts.flatten())
    return amounts.flatten(0, -2).sum(0)


def fired_on(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Int[Tensor, " d_sae"]:
    """Unmasked tokens each feature fired on."""
    return per_feature(codes, (masked_values(codes, mask) != 0).long())


def absolute_sum(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Float[Tensor, " d_sae"]:
    """Sum of |activation| over unmasked tokens, in float32 or better."""
    values = masked_values(codes, mask).abs()
    return per_feature(codes, values.to(torch.promote_types(values.dtype, torch.float32)))


def count_tokens(codes: Codes, mask: Bool[Tensor, "*tokens"] | None) -> Int[Tensor, ""]:
    """Unmasked tokens, on the codes' device (no synchronisation)."""
    if mask is None:
        return torch.tensor(codes.values.shape[:-1].numel(), device=codes.values.device)
    return mask.sum()
