"""Parts that look at earlier tokens (DESIGN 5.A).

Context mixers let the centred inputs of other tokens reach the encoder (`placement: input`); through a feature kernel,
every feature gathers its own evidence over earlier tokens (`placement: feature`).
"""

from typing import Literal

import torch
import torch.utils.checkpoint
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from chronosae.autoencoders.parts import ModuleSpec, Positive
from chronosae.autoencoders.tokens import Layout, Past, shifted
from chronosae.config.registry import Registry
from chronosae.kernels import (
    Lookback,
    Taps,
    causal_taps,
    compiled_kernels,
    depthwise_taps,
    mix_taps,
    mixed_products,
    product,
    tokens_at,
)

MIXERS: Registry["MixerSpec"] = Registry("mixer")
FEATURE_KERNELS: Registry["FeatureKernelSpec"] = Registry("feature kernel")


class MixerSpec(ModuleSpec):
    """Base of the mixers. The module maps `(h [batch, pos, d_in], layout, past)` to the same shape."""

    @property
    def history(self) -> int:
        """Earlier tokens that an output depends on."""
        raise NotImplementedError

    @property
    def lookahead(self) -> int:
        """Later tokens that an output depends on; 0 is causal."""
        return 0


def check_rates(rates: list[int]) -> None:
    """ValueError unless dilations are positive and differ."""
    if not rates or any(rate < 1 for rate in rates) or len(set(rates)) < len(rates):
        raise ValueError(f"rates must be different positive dilations such as [1, 2, 4], got {rates}")


@MIXERS.add
class InputConv(MixerSpec):
    """`u^(r)_{t,c} = sum_j w^(r)_{c,j} h_{t-jr,c}` for each dilation r; concatenated, projected to d_in, added to h.

    The projection starts at zero, so training starts at the static autoencoder.
    """

    kind: Literal["conv"] = "conv"
    rates: list[int] = Field(default=[1, 2, 4])
    """Dilations."""
    kernel_size: Positive = 3
    """Taps of each dilation; 1 sees the token itself only, a control."""
    rank: Positive | None = None
    """Rank of the projection; full when absent."""
    depthwise: bool = True
    """False: every output channel sees every input channel (for analysis; many weights)."""
    centered: bool = False
    """Look ahead as far as back (for analysis; such an autoencoder can't stream)."""
    lr_multiplier: float = Field(default=1.0, gt=0)
    """Learning rate of the mixer, relative to the run's."""
    checkpoint: bool = False
    """Compute the mixer again in the backward pass instead of keeping its shifted copies: less memory, more time."""

    @model_validator(mode="after")
    def _sound(self) -> "InputConv":
        check_rates(self.rates)
        if self.centered and self.kernel_size % 2 == 0:
            raise ValueError(f"a centered kernel_size must be odd, got {self.kernel_size}")
        return self

    @property
    def offsets(self) -> list[int]:
        """Lag of each tap, in units of the dilation."""
        back = (self.kernel_size - 1) // 2 if self.centered else 0
        return [tap - back for tap in range(self.kernel_size)]

    @property
    def history(self) -> int:
        return max(self.offsets) * max(self.rates)

    @property
    def lookahead(self) -> int:
        return -min(self.offsets) * max(self.rates)

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        return _InputConv(self, d_in)


class _InputConv(nn.Module):
    def __init__(self, cfg: InputConv, d_in: int) -> None:
        super().__init__()
        self.cfg, self.lr_multiplier = cfg, cfg.lr_multiplier
        n_rates, taps = len(cfg.rates), cfg.kernel_size
        shape = (n_rates, taps, d_in) if cfg.depthwise else (n_rates, taps, d_in, d_in)
        fan = taps if cfg.depthwise else taps * d_in
        self.kernel = nn.Parameter(torch.randn(shape) / fan**0.5)
        width = n_rates * d_in
        if cfg.rank is None:
            self.project_in = None
            self.project_out = nn.Parameter(torch.zeros(width, d_in))
        else:
            self.project_in = nn.Parameter(torch.randn(width, cfg.rank) / width**0.5)
            self.project_out = nn.Parameter(torch.zeros(cfg.rank, d_in))

    def forward(
        self, h: Float[Tensor, "batch pos d_in"], layout: Layout | None, past: Past | None
    ) -> Float[Tensor, "batch pos d_in"]:
        if self.cfg.checkpoint and torch.is_grad_enabled():
            with mixed_products(False):  # computed again, it must be the same
                return torch.utils.checkpoint.checkpoint(self._mix, h, layout, past, use_reentrant=False)
        return self._mix(h, layout, past)

    def _mix(self, h: Tensor, layout: Layout | None, past: Past | None) -> Tensor:
        if self.cfg.depthwise and past is None and compiled_kernels(h, self.kernel):
            rows, taps = h.reshape(-1, h.shape[-1]), self._taps(h, layout)
            mixed = mix_taps(rows, self.kernel, self.project_in, self.project_out, taps)
            if mixed is not None:
                return mixed.view_as(h)
            u = depthwise_taps(rows, self.kernel, *taps).view(*h.shape[:-1], -1)
        else:
            moved = {lag: shifted(h, lag, layout, past) for lag in self._lags}
            u = torch.cat([self._scale(index, rate, moved) for index, rate in enumerate(self.cfg.rates)], dim=-1)
        if self.project_in is not None:
            u = product(u, self.project_in)
        return h + product(u, self.project_out)

    @property
    def _lags(self) -> tuple[int, ...]:
        return tuple(sorted({offset * rate for rate in self.cfg.rates for offset in self.cfg.offsets}))

    def _taps(self, h: Tensor, layout: Layout | None) -> Taps:
        lags = self._lags
        which = torch.tensor([[lags.index(offset * rate) for offset in self.cfg.offsets] for rate in self.cfg.rates])
        return Taps(which, lags, tokens_at((h.shape[0], h.shape[1]), lags, None if layout is None else layout.doc_ids))

    def _scale(self, index: int, rate: int, moved: dict[int, Tensor]) -> Tensor:
        total: Tensor | None = None
        for tap, offset in enumerate(self.cfg.offsets):
            weight, x = self.kernel[index, tap], moved[offset * rate]
            u = x * weight if self.cfg.depthwise else x @ weight
            total = u if total is None else total + u
        assert total is not None
        return total


class FeatureKernelSpec(ModuleSpec):
    """Base of the feature kernels. The module maps `(s [batch, pos, d_sae], layout, past)` to the same shape."""

    @property
    def history(self) -> int:
        """Earlier tokens that an output depends on."""
        raise NotImplementedError


@FEATURE_KERNELS.add
class FeatureConv(FeatureKernelSpec):
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


class LaggedFeatureKernel(nn.Module):
    """Base of the feature kernels that add each feature's own past, weighed by lag: `y_t = s_t + sum_l w_l s_{t-l}`.

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


class _FeatureConv(LaggedFeatureKernel):
    def __init__(self, cfg: FeatureConv, d_sae: int) -> None:
        super().__init__()
        self.cfg, self.lr_multiplier = cfg, cfg.lr_multiplier
        # Features last: shards of d_sae are slices of the last axis, as for W_enc.
        self.taps = nn.Parameter(torch.zeros(len(cfg.rates), cfg.kernel_size - 1, d_sae))

    def by_lag(self) -> dict[int, Float[Tensor, " d_sae"]]:
        """The weight of each lag: dilations that share one add up."""
        weights: dict[int, Tensor] = {}
        for index, rate in enumerate(self.cfg.rates):
            for tap in range(1, self.cfg.kernel_size):
                lag, weight = tap * rate, self.taps[index, tap - 1]
                weights[lag] = weights[lag] + weight if lag in weights else weight
        return dict(sorted(weights.items()))
