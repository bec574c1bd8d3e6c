"""Feature kernels: every feature gathers its own evidence over earlier tokens (DESIGN 5.A, `placement: feature`)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from chronosae.autoencoders.layout import Layout, Past
from chronosae.autoencoders.parts.base import ModuleSpec, Positive, Registry
from chronosae.autoencoders.parts.mixers import check_rates
from chronosae.kernels import Lookback, causal_taps, tokens_at

KERNELS: Registry["KernelSpec"] = Registry("kernel")


class KernelSpec(ModuleSpec):
    """Base of the feature kernels. The module maps `(s [batch, pos, d_sae], layout, past)` to the same shape."""

    @property
    def history(self) -> int:
        """Earlier tokens that an output depends on."""
        raise NotImplementedError


@KERNELS.add
class FeatureConv(KernelSpec):
    """`pre'_{t,f} = pre_{t,f} + sum_r sum_{j>=1} w^(r)_{f,j} (W_enc^T h)_{t-jr,f}`, w starting at zero."""

    kind: Literal["conv"] = "conv"
    rates: list[int] = Field(default=[1, 2, 4])
    """Dilations."""
    kernel_size: Positive = 3
    """Taps of each dilation, the current token's included."""
    lr_multiplier: float = Field(default=1.0, gt=0)
    """Learning rate of the taps, relative to the run's."""

    @model_validator(mode="after")
    def _sound(self) -> "FeatureConv":
        check_rates(self.rates)
        if self.kernel_size < 2:
            raise ValueError("kernel_size must be at least 2: a feature kernel of one tap sees no other token")
        return self

    @property
    def history(self) -> int:
        return (self.kernel_size - 1) * max(self.rates)

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        return _FeatureConv(self, d_sae)


class LaggedKernel(nn.Module):
    """Base of the kernels that add each feature's own past, weighed by lag: `y_t = s_t + sum_l w_l s_{t-l}`.

    The sparse training step knows these; another module in this slot works, on all pre-activations.
    """

    def by_lag(self) -> dict[int, Float[Tensor, " d_sae"]]:
        """The weights of each lag, lags positive and ascending."""
        raise NotImplementedError

    def forward(
        self, s: Float[Tensor, "batch pos d_sae"], layout: Layout | None, past: Past | None
    ) -> Float[Tensor, "batch pos d_sae"]:
        return _add_past(s, self.by_lag(), layout, past)

    def of_some(
        self, s: Float[Tensor, "batch pos m"], features: Int[Tensor, " m"], layout: Layout
    ) -> Float[Tensor, "batch pos m"]:
        """The same for some features, `s` being theirs."""
        return _add_past(s, {lag: weights[features] for lag, weights in self.by_lag().items()}, layout, None)

    def lookback(self, layout: Layout) -> Lookback:
        """The lags as the sparse step takes them."""
        weights = self.by_lag()
        lags, (batch, pos) = tuple(weights), layout.mask.shape
        sources = tokens_at((batch, pos), lags, layout.doc_ids).to(layout.mask.device)
        return Lookback(torch.stack(list(weights.values())), lags, sources)


def _add_past(
    s: Float[Tensor, "batch pos m"], weights: dict[int, Tensor], layout: Layout | None, past: Past | None
) -> Float[Tensor, "batch pos m"]:
    docs = None if layout is None else layout.doc_ids
    before, before_docs = (None, None) if past is None else past
    return causal_taps(s, torch.stack(list(weights.values())), tuple(weights), docs, before, before_docs)


class _FeatureConv(LaggedKernel):
    def __init__(self, cfg: FeatureConv, d_sae: int) -> None:
        super().__init__()
        self.cfg = cfg
        # Features last: shards of d_sae are slices of the last axis, as for W_enc.
        self.taps = nn.Parameter(torch.zeros(len(cfg.rates), cfg.kernel_size - 1, d_sae))

    @property
    def lr_multiplier(self) -> float:
        """Learning rate of the taps, relative to the run's."""
        return self.cfg.lr_multiplier

    def by_lag(self) -> dict[int, Float[Tensor, " d_sae"]]:
        """The weight of each lag: dilations that share one add up."""
        weights: dict[int, Tensor] = {}
        for index, rate in enumerate(self.cfg.rates):
            for tap in range(1, self.cfg.kernel_size):
                lag, weight = tap * rate, self.taps[index, tap - 1]
                weights[lag] = weights[lag] + weight if lag in weights else weight
        return dict(sorted(weights.items()))
