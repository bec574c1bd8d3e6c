"""Baselines that see one token at a time: what every claim about time is held against."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from chronosae.autoencoders import Normalisation, Spec
from chronosae.autoencoders.parts.activations import (
    ActivationSpec,
    BatchTopK,
    Gated,
    JumpReLU,
    ReLU,
    TopK,
    WinnerTakeAll,
)
from chronosae.autoencoders.parts.terms import TermSpec
from chronosae.autoencoders.spec import PositionMaskField
from chronosae.objectives import GateAuxTerm, GateL1Term, L0Term, L1Term, NestedTerm
from chronosae.presets.base import PRESETS, Preset, TopKPreset, check_target


@PRESETS.add
class ReluL1(Preset):
    """ReLU codes, L1 penalty; target_l0 steers the penalty's weight.

    The classic baseline, in both of its usual forms.
    """

    name: ClassVar[str] = "relu_l1"
    paper: ClassVar[str] = "Bricken et al. 2023; Conerly et al. 2024"

    form: Literal["unit_norm", "decoder_weighted"] = "unit_norm"
    """`unit_norm`: decoder rows at norm 1, projected gradients (Bricken et al. 2023); `decoder_weighted`: free decoder,
    each feature's L1 weighted by its decoder norm (Conerly et al. 2024)."""
    l1_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the penalty, in units where mean ||x|| is sqrt(d_in); the start value when `target_l0` is set."""
    l1_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer the weight until this many features are active a token; landing more than 5 % off is flagged."""
    resample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between re-initialisations of dead features (Bricken et al. 2023); 0 is never."""
    position_mask: PositionMaskField = None
    """Position mask, such as {kind: soft, context: 128}."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        check_target(self.target_l0, self.d_sae)
        weighted = self.form == "decoder_weighted"
        penalty = L1Term(
            weight=self.l1_weight,
            decoder_weighted=weighted,
            warmup_fraction=self.l1_warmup_fraction,
            target_l0=self.target_l0,
        )
        return self.assemble(
            d_in,
            normalisation,
            activation=ReLU(),
            decoder="free" if weighted else "unit_norm",
            terms=[penalty],
            position_mask=self.position_mask,
            resample_every=self.resample_every,
        )


class MaskedTopK(TopKPreset):
    """Base of the static presets that choose k features, under a position mask where there is one."""

    position_mask: PositionMaskField = None
    """Position mask, such as {kind: soft, context: 128}."""

    def own(self) -> ActivationSpec:
        """The preset's own choice of `k`."""
        return TopK(k=self.k)

    def choose(
        self, d_in: int, normalisation: Normalisation, *terms: TermSpec, reconstruction_weight: float = 1.0
    ) -> Spec:
        """The spec, the preset's own terms before AuxK."""
        activation = self.activation or self.own()
        return self.assemble(
            d_in,
            normalisation,
            activation=activation,
            reconstruction_weight=reconstruction_weight,
            terms=[*terms, *self.auxk_beside(activation, d_in)],
            position_mask=self.position_mask,
        )


@PRESETS.add
class TopKAuxK(MaskedTopK):
    """Exactly k features a token; AuxK revives dead ones."""

    name: ClassVar[str] = "topk"
    paper: ClassVar[str] = "arXiv 2406.04093"

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        return self.choose(d_in, normalisation)


class BatchChoice(MaskedTopK):
    """Base of the static presets that choose k features a token on average over a batch."""

    def own(self) -> ActivationSpec:
        return BatchTopK(k=self.k)


@PRESETS.add
class BatchTopKAuxK(BatchChoice):
    """k features a token on average over the batch; a learned threshold outside training.

    Bussmann et al. 2024.
    """

    name: ClassVar[str] = "batch_topk"
    paper: ClassVar[str] = "arXiv 2412.06410"

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        return self.choose(d_in, normalisation)


@PRESETS.add
class JumpReLUL0(Preset):
    """A learned threshold a feature, L0 penalty; target_l0 steers its weight.

    Rajamanoharan et al. 2024.
    """

    name: ClassVar[str] = "jump_relu"
    paper: ClassVar[str] = "arXiv 2407.14435"

    l0_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the penalty, in units where mean ||x|| is sqrt(d_in); the start value when `target_l0` is set."""
    l0_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer the weight until this many features are active a token; landing more than 5 % off is flagged."""
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """Where every feature's threshold starts, in the same units."""
    bandwidth: Annotated[float, Field(gt=0)] = 0.5
    """Width of the straight-through estimate, in the same units."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        check_target(self.target_l0, self.d_sae)
        activation = JumpReLU(threshold=self.threshold, bandwidth=self.bandwidth)
        penalty = L0Term(weight=self.l0_weight, warmup_fraction=self.l0_warmup_fraction, target_l0=self.target_l0)
        return self.assemble(d_in, normalisation, activation=activation, terms=[penalty])


@PRESETS.add
class GatedL1(Preset):
    """One gate and one magnitude a feature; L1 on the gates only, so magnitudes don't shrink.

    Rajamanoharan et al. 2024.
    """

    name: ClassVar[str] = "gated"
    paper: ClassVar[str] = "arXiv 2404.16014"

    l1_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the gates' L1, in units where mean ||x|| is sqrt(d_in); the start value when `target_l0` is set."""
    l1_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer the weight until this many features are active a token; landing more than 5 % off is flagged."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        check_target(self.target_l0, self.d_sae)
        penalty = GateL1Term(weight=self.l1_weight, warmup_fraction=self.l1_warmup_fraction, target_l0=self.target_l0)
        return self.assemble(d_in, normalisation, activation=Gated(), terms=[penalty, GateAuxTerm()])


@PRESETS.add
class Matryoshka(BatchChoice):
    """Nested dictionaries: every prefix of feature groups reconstructs alone; BatchTopK.

    Bussmann et al. 2025.
    """

    name: ClassVar[str] = "matryoshka"
    paper: ClassVar[str] = "arXiv 2503.17547"

    split: list[Annotated[float, Field(gt=0)]] = Field(default=[1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2], min_length=2)
    """Shares of the dictionary, group by group; each prefix of groups must reconstruct alone. They sum to 1."""
    group_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """Weight of each prefix's error, the whole dictionary's last; equal when absent. Scaled to sum to 1."""

    @model_validator(mode="after")
    def _whole(self) -> "Matryoshka":
        check_split(self.split)
        if self.group_weights is not None and len(self.group_weights) != len(self.split):
            raise ValueError(f"group_weights: {len(self.split)} groups need as many, got {len(self.group_weights)}")
        if self.group_weights is not None and not sum(self.group_weights):
            raise ValueError("group_weights are all zero: nothing would be reconstructed")
        return self

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        term, whole = nested(self.split, self.group_weights)
        return self.choose(d_in, normalisation, term, reconstruction_weight=whole)


def check_split(split: list[float]) -> None:
    """ValueError unless shares sum to 1."""
    if abs(sum(split) - 1) > 1e-6:
        raise ValueError(f"split must sum to 1, got {split}, which sums to {sum(split):.4g}")


def nested(split: list[float], weights: list[float] | None) -> tuple[NestedTerm, float]:
    """The term for all prefixes but the whole, and the whole's weight."""
    weights = weights or [1.0] * len(split)
    share = [weight / sum(weights) for weight in weights]
    prefixes = [sum(split[: i + 1]) for i in range(len(split) - 1)]
    return NestedTerm(prefixes=prefixes, weights=share[:-1]), share[-1]


@PRESETS.add
class WinnerTakesAll(Preset):
    """Each feature fires on its strongest share of tokens, so none dies.

    Lifetime sparsity (Makhzani & Frey 2015).
    """

    name: ClassVar[str] = "winner_take_all"
    paper: ClassVar[str] = "arXiv 1409.2752"

    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of tokens that each feature may fire on; `k / d_sae` when absent."""
    k: Annotated[float, Field(gt=0)] = 32.0
    """Mean number of features active at a token, when `rate` is absent."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        if self.rate is None and self.k > self.d_sae:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({self.d_sae})")
        activation = WinnerTakeAll(rate=self.rate or self.k / self.d_sae)
        return self.assemble(d_in, normalisation, activation=activation)
