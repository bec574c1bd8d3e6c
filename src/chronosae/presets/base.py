"""What a preset is: a class whose fields are the options that a user may set, and how they become a `Spec`.

@PRESETS.add
class Mine(TopKPreset):
    \"\"\"What it is, in one line.\"\"\"

    name: ClassVar[str] = "mine"

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        return self.assemble(d_in, normalisation, activation=TopK(k=self.k))
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from chronosae.autoencoders import Normalisation, Spec
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.activations import ActivationSpec, BatchTopK, TopK
from chronosae.autoencoders.parts.temporal import FeatureKernelSpec, MixerSpec
from chronosae.autoencoders.parts.terms import TermSpec
from chronosae.autoencoders.spec import (
    ActivationField,
    CorruptionField,
    FeatureKernelField,
    MixerField,
    NormField,
    PositionMaskField,
    TermField,
    TrackerField,
)
from chronosae.config import Section
from chronosae.config.registry import Registry
from chronosae.objectives import AuxKTerm

_FAMILIES = {
    "static": ("relu_l1", "topk", "batch_topk", "jump_relu", "gated", "matryoshka", "winner_take_all"),
    "temporal": ("multiscale", "consistency", "causal", "lagged", "positional"),
    "published": ("tsae", "tfa", "txc", "stacked"),
}
PRESETS: Registry["Preset"] = Registry(
    "preset",
    {name: f"chronosae.presets.{family}" for family, names in _FAMILIES.items() for name in names}
    | {"chrono": "chronosae.presets.temporal"},
)
"""All presets; the file of a family is imported when one of its own is first asked for."""
OURS = "this project"


class Preset(Section):
    """Base of the presets, with the options that all take. The first line of a docstring says what a preset is."""

    name: ClassVar[str]
    """What it is called."""
    paper: ClassVar[str] = "unpublished"
    """Where it comes from."""
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Option -> those that mean nothing once it is given: giving both is refused, for one would be ignored."""

    d_sae: Annotated[int, Field(gt=1)] = 2048
    """Number of features."""
    corruption: CorruptionField = None
    """Denoising: damage done to training inputs, such as {kind: gaussian, level: 0.7}; the target stays clean."""
    extra_terms: list[TermField] = Field(default_factory=list)
    """More objective terms, such as {kind: cosine, weight: 0.1} or {kind: next_token}."""
    trackers: list[TrackerField] = Field(default_factory=list)
    """What is watched while it trains, such as {kind: importance}."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        """The autoencoder's parts at width `d_in`. Raises ValueError for options that can't go together."""
        raise NotImplementedError

    def assemble(
        self,
        d_in: int,
        normalisation: Normalisation,
        *,
        activation: ActivationSpec,
        terms: Sequence[TermSpec] = (),
        **parts: Any,
    ) -> Spec:
        """The spec of what the preset is about, and whatever the user added.

        Args:
            terms: the preset's own, before the user's.
            parts: other fields of the spec that the preset decides.
        """
        whole = {
            "preset": self.name,
            "d_in": d_in,
            "d_sae": self.d_sae,
            "normalisation": normalisation,
            "activation": activation,
            "terms": [*terms, *self.extra_terms],
            "corruption": self.corruption,
            "trackers": self.trackers,
        }
        return Spec(**whole | parts)

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "Preset":
        for option, ignored in self.replaces.items():
            if getattr(self, option) is None:
                continue
            for name in ignored:
                if name in self.model_fields_set:
                    raise ValueError(f"{name} means nothing beside {option}, which replaces it; leave one out")
        return self


class TopKPreset(Preset):
    """Base of the presets that choose a number of features at each token."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {"activation": ("k",)}

    k: Positive = 32
    """Features active at each token (at a batch's mean token where a batch is chosen from)."""
    aux_weight: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of AuxK, which revives dead features; 0 switches it off."""
    k_aux: Positive | None = None
    """Dead features that take part in AuxK; d_in / 2 when absent."""
    activation: ActivationField | None = None
    """Another activation function than the preset's choice of `k`, such as {kind: batch_topk, k: 32}."""

    @model_validator(mode="after")
    def _k_fits(self) -> "TopKPreset":
        # Beside another activation function k means nothing, its default included.
        if self.k > self.d_sae and self.activation is None:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({self.d_sae})")
        return self

    def auxk(self, d_in: int) -> list[TermSpec]:
        """The AuxK term, if it is on."""
        if not self.aux_weight:
            return []
        return [AuxKTerm(weight=self.aux_weight, k_aux=min(self.k_aux or max(1, d_in // 2), self.d_sae))]

    def auxk_beside(self, activation: ActivationSpec, d_in: int) -> list[TermSpec]:
        """The same for an activation function that chooses k features; others keep no feature dead by choice.

        Raises:
            ValueError: AuxK was asked for by an option, and has no place.
        """
        if isinstance(activation, TopK | BatchTopK):
            return self.auxk(d_in)
        fields = type(self).model_fields
        given = [name for name in ("aux_weight", "k_aux") if getattr(self, name) not in (0, fields[name].default)]
        if given:
            raise ValueError(f"{given[0]} is for activation functions that choose k features, not {activation.kind}")
        return []


class PartsPreset(TopKPreset):
    """Base of the sequence-aware presets: every slot is open to every part, so that ideas combine."""

    activation: ActivationField | None = None
    """Another activation function than TopK of `k`, such as {kind: batch_topk, k: 32}."""
    norm: NormField = None
    """Norm of the centred input: {kind: layer} or {kind: batch}."""
    mixer: MixerField = None
    """Context mixer, such as {kind: conv, rates: [1, 2, 4]}."""
    kernel: FeatureKernelField = None
    """Feature kernel, such as {kind: conv, rates: [1, 2, 4]}."""
    position_mask: PositionMaskField = None
    """Position mask, such as {kind: soft, context: 128}."""
    feature_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an active feature is left out of a training reconstruction (the original logs: 0.2)."""

    def compose(
        self,
        d_in: int,
        normalisation: Normalisation,
        *,
        terms: Sequence[TermSpec] = (),
        mixer: MixerSpec | None = None,
        kernel: FeatureKernelSpec | None = None,
        **parts: Any,
    ) -> Spec:
        """As `assemble`, AuxK after the preset's own terms, in every slot what the user filled it with.

        Args:
            mixer, kernel: the preset's own, unless the user gave one.
        """
        activation = parts.pop("activation", None) or self.activation or TopK(k=self.k)
        slots = {
            "norm": self.norm,
            "mixer": self.mixer or mixer,
            "kernel": self.kernel or kernel,
            "position_mask": self.position_mask,
            "feature_dropout": self.feature_dropout,
        }
        terms = [*terms, *self.auxk_beside(activation, d_in)]
        return self.assemble(d_in, normalisation, activation=activation, terms=terms, **slots | parts)


def check_target(target_l0: float | None, d_sae: int) -> None:
    """ValueError when a weight is to be steered to more active features than there are."""
    if target_l0 is not None and target_l0 > d_sae:
        raise ValueError(f"target_l0 ({target_l0}) must be at most d_sae ({d_sae})")
