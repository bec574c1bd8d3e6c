"""Activation functions: which pre-activations become codes, and with what value."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders.codes import (
    DENSE_SHARE,
    Codes,
    DenseCodes,
    SparseCodes,
    compact,
    select_topk,
    smallest_of_largest,
)
from chronosae.autoencoders.parts import ModuleSpec, Positive, follow
from chronosae.autoencoders.parts.pre_activations import PreActivations
from chronosae.config.registry import Registry
from chronosae.kernels import compiled_kernels, encode_threshold, encode_topk_in_context, triton_kernels

ACTIVATIONS: Registry["ActivationSpec"] = Registry("activation")


class ActivationSpec(ModuleSpec):
    """Base of the activation functions."""

    needs_term: ClassVar[str | None] = None
    """The term without which nothing trains it, and which is for it alone."""

    def check(self, d_sae: int) -> None:
        """ValueError when there are too few features for it."""

    @property
    def slots(self) -> int | None:
        """Features that are active at a token, wherever so many are positive; None where that differs by token."""
        return None

    def make(self, d_in: int, d_sae: int) -> "Activation":
        raise NotImplementedError


class Activation(nn.Module):
    """Base of the modules. When not training, a token's codes depend on its own pre-activations only."""

    def forward(
        self,
        pre: Float[Tensor, "*tokens d_sae"],
        mask: Bool[Tensor, "*tokens"] | None,
        scale: Float[Tensor, "*tokens"] | None,
        training: bool,
    ) -> Codes:
        """Codes of `pre`; masked tokens get none. `scale` goes into the codes as it is."""
        raise NotImplementedError

    def encode(self, pre: PreActivations) -> Codes | None:
        """Codes without all pre-activations, from what the encoder reads; None: compute them, then `forward`."""
        return None

    def rescale(self, factor: float) -> None:
        """Make `f(pre / factor) = f(pre) / factor` of the function f there was: for folding a normalisation."""


@ACTIVATIONS.add
class ReLU(ActivationSpec):
    """Every positive pre-activation passes."""

    kind: Literal["relu"] = "relu"

    def make(self, d_in: int, d_sae: int) -> Activation:
        return _ReLU()


class ChoosesK(ActivationSpec):
    """Base of those that choose a number of features."""

    k: Positive

    def check(self, d_sae: int) -> None:
        if self.k > d_sae:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({d_sae})")


@ACTIVATIONS.add
class TopK(ChoosesK):
    """The k largest positive pre-activations of a token pass (Gao et al. 2024, arXiv 2406.04093)."""

    kind: Literal["topk"] = "topk"

    @property
    def slots(self) -> int | None:
        return self.k

    def make(self, d_in: int, d_sae: int) -> Activation:
        return _TopK(self.k)


@ACTIVATIONS.add
class BatchTopK(ChoosesK):
    """The k n largest positive pre-activations of a batch of n tokens (Bussmann et al. 2024, arXiv 2412.06410).

    Otherwise, those above a threshold: the running mean of each batch's smallest chosen one, from the first batch on.
    """

    kind: Literal["batch_topk"] = "batch_topk"
    k: Positive
    """Mean number of features active at a token."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of a new batch in the threshold."""

    def make(self, d_in: int, d_sae: int) -> Activation:
        return _BatchTopK(self.k, self.momentum)


@ACTIVATIONS.add
class JumpReLU(ActivationSpec):
    """Pre-activations above the feature's own learned threshold pass (Rajamanoharan et al. 2024, arXiv 2407.14435).

    Thresholds learn through rectangles of width `bandwidth` around them, from the reconstruction and the `l0` term.
    """

    kind: Literal["jump_relu"] = "jump_relu"
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """Where thresholds start, in normalised units."""
    bandwidth: Annotated[float, Field(gt=0)] = 0.5
    """Width of the straight-through estimate, in normalised units."""

    def make(self, d_in: int, d_sae: int) -> Activation:
        return JumpReLUActivation(self, d_sae)


@ACTIVATIONS.add
class Gated(ActivationSpec):
    """`1[pre > 0] relu(exp(r) pre + b)`: the gate and the magnitude share a direction (arXiv 2404.16014, section 3.2).

    The paper's `b_mag` is `b + exp(r) b_gate` here. The gate learns from the `gate_l1` and `gate_aux` terms alone.
    """

    kind: Literal["gated"] = "gated"
    needs_term: ClassVar[str | None] = "gate_aux"

    def make(self, d_in: int, d_sae: int) -> Activation:
        return _Gated(d_sae)


@ACTIVATIONS.add
class WinnerTakeAll(ActivationSpec):
    """Each feature passes at its strongest `rate` of a batch's tokens (Makhzani & Frey 2015, arXiv 1409.2752).

    Otherwise, above the feature's own threshold: the running mean of its smallest winning pre-activation.
    """

    kind: Literal["winner_take_all"] = "winner_take_all"
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of tokens that each feature may fire on."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of a new batch in the thresholds."""

    def make(self, d_in: int, d_sae: int) -> Activation:
        return _WinnerTakeAll(self, d_sae)


class _ReLU(Activation):
    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        return DenseCodes(values=_unmasked(torch.relu(pre), mask), scale=scale)


class _TopK(Activation):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        values, indices = select_topk(pre, self.k, mask)
        return SparseCodes(values=values, scale=scale, indices=indices, n_features=pre.shape[-1])

    def encode(self, pre: PreActivations) -> Codes | None:
        if not _has_kernels(pre):
            return None
        given, rest = (pre.rows(), pre.W_enc.T, pre.b_enc, self.k), (pre.tokens.active, pre.centre, pre.wanted)
        return pre.chosen(*encode_topk_in_context(*given, pre.lookback(), pre.position_weights(), *rest))


class _BatchTopK(Activation):
    threshold: Tensor
    seen: Tensor

    def __init__(self, k: int, momentum: float) -> None:
        super().__init__()
        self.k, self.momentum = k, momentum
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        threshold = self._learn(pre.detach(), mask) if training else self.threshold
        # NaN stays visible, as in TopK.
        keep = ~(pre.detach() < threshold) & ~(pre.detach() <= 0)
        return compact(pre, keep if mask is None else keep & mask.unsqueeze(-1), scale)

    def encode(self, pre: PreActivations) -> Codes | None:
        if not _has_kernels(pre) or not pre.plain:
            return None
        rows, active, training = pre.rows(), pre.tokens.active, pre.tokens.training
        which: dict[str, Any] = {"threshold": float(self.threshold)}
        if training:
            which = {"count": self.k * (len(rows) if active is None else int(active.sum()))}
        found = encode_threshold(rows, pre.W_enc.T, pre.b_enc, active, pre.centre, pre.wanted, **which)
        if found is None or found[0][0].shape[1] > DENSE_SHARE * pre.W_enc.shape[1]:
            return None
        if training:
            self._remember(found[1])
        return pre.chosen(*found[0])

    def _learn(self, pre: Tensor, mask: Tensor | None) -> Tensor:
        rows = pre.flatten(0, -2) if mask is None else pre[mask]
        smallest = smallest_of_largest(rows, self.k * rows.shape[0])
        self._remember(smallest)
        return smallest

    def _remember(self, smallest: Tensor) -> None:
        if torch.isfinite(smallest):
            follow(self.seen, self.momentum, (self.threshold, smallest))

    def rescale(self, factor: float) -> None:
        self.threshold.div_(factor)


class JumpReLUActivation(Activation):
    """Module of `JumpReLU`."""

    def __init__(self, cfg: JumpReLU, d_sae: int) -> None:
        super().__init__()
        self.bandwidth = cfg.bandwidth
        self.log_threshold = nn.Parameter(torch.full((d_sae,), cfg.threshold).log())

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """What a pre-activation must exceed."""
        return self.log_threshold.exp()

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        values = _Jump.apply(pre, self.threshold.to(pre.dtype), self.bandwidth)
        return DenseCodes(values=_unmasked(values, mask), scale=scale)

    def steps(self, pre: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """1 where the feature fires, with the straight-through gradient to the threshold: for the `l0` term."""
        return _Step.apply(pre, self.threshold.to(pre.dtype), self.bandwidth)

    def rescale(self, factor: float) -> None:
        self.log_threshold.data.sub_(torch.tensor(factor).log())
        self.bandwidth /= factor


class _Gated(Activation):
    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        magnitude = torch.relu(pre * self.log_gain.exp() + self.b_mag)
        return DenseCodes(values=_unmasked(torch.where(pre > 0, magnitude, pre * 0), mask), scale=scale)

    def rescale(self, factor: float) -> None:
        self.b_mag.data.div_(factor)


class _WinnerTakeAll(Activation):
    thresholds: Tensor
    seen: Tensor

    def __init__(self, cfg: WinnerTakeAll, d_sae: int) -> None:
        super().__init__()
        self.rate, self.momentum = cfg.rate, cfg.momentum
        self.register_buffer("thresholds", torch.zeros(d_sae))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        thresholds = self._learn(pre.detach(), mask) if training else self.thresholds
        keep = ~(pre.detach() < thresholds.to(pre.dtype)) & ~(pre.detach() <= 0)
        return compact(pre, keep if mask is None else keep & mask.unsqueeze(-1), scale)

    def _learn(self, pre: Tensor, mask: Tensor | None) -> Tensor:
        rows = pre.flatten(0, -2) if mask is None else pre[mask]
        if rows.shape[0] == 0:
            return self.thresholds
        n = max(1, round(self.rate * rows.shape[0]))
        smallest = rows.topk(n, dim=0, sorted=False).values.amin(0)
        if torch.isfinite(smallest).all():
            follow(self.seen, self.momentum, (self.thresholds, smallest))
        return smallest

    def rescale(self, factor: float) -> None:
        self.thresholds.div_(factor)


def _has_kernels(pre: PreActivations) -> bool:
    # Autocast asks for products in bfloat16, which the GPU's kernels heed; the CPU's are exact.
    if triton_kernels(pre.W_enc, pre.b_enc):
        return True
    return not torch.is_autocast_enabled(pre.W_enc.device.type) and compiled_kernels(pre.W_enc, pre.b_enc)


def _unmasked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else torch.where(mask.unsqueeze(-1), values, values * 0)


class _Step(torch.autograd.Function):
    """`1[pre > threshold]`; d/d threshold is minus a rectangle of width `bandwidth` and area 1."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype)
        return None, -(grad * near).flatten(0, -2).sum(0) / ctx.bandwidth, None


class _Jump(torch.autograd.Function):
    """`pre 1[pre > threshold]`, the same estimate times the threshold for its gradient."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        # Not `pre * (pre > threshold)`: a NaN is above nothing, and would be lost.
        return torch.where(pre <= threshold, pre * 0, pre)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype)
        to_threshold = -(grad * near).flatten(0, -2).sum(0) * threshold / ctx.bandwidth
        return grad * (pre > threshold), to_threshold, None
