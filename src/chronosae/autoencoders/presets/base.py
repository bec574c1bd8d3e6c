"""What a preset is: a name, a line, the options a user may set, and how they become a `Spec`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.activations import ActivationSpec, BatchTopK, TopK
from chronosae.autoencoders.parts.feature_kernels import KernelSpec
from chronosae.autoencoders.parts.mixers import MixerSpec
from chronosae.autoencoders.parts.terms import AuxKTerm, TermSpec
from chronosae.autoencoders.spec import (
    ActivationField,
    CorruptionField,
    KernelField,
    MixerField,
    Normalisation,
    NormField,
    PositionMaskField,
    Spec,
    TermField,
    WatcherField,
)
from chronosae.config import Section

Positive = Annotated[int, Field(gt=0)]


class Options(Section):
    """Options that every preset takes."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Option -> those that mean nothing once it is given: giving both is refused, for one would be ignored."""

    d_sae: Annotated[int, Field(gt=1)] = 2048
    """Number of features."""
    corruption: CorruptionField = None
    """Denoising: damage done to training inputs, such as {kind: gaussian, level: 0.7}; the target stays clean."""
    extra_terms: list[TermField] = Field(default_factory=list)
    """More objective terms, such as {kind: cosine, weight: 0.1} or {kind: next_token}."""
    trackers: list[WatcherField] = Field(default_factory=list)
    """What is watched while it trains, such as {kind: importance}."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "Options":
        for option, ignored in self.replaces.items():
            if getattr(self, option) is None:
                continue
            for name in ignored:
                if name in self.model_fields_set:
                    raise ValueError(f"{name} means nothing beside {option}, which replaces it; leave one out")
        return self


class TopKOptions(Options):
    """Options of the presets that choose a number of features at each token."""

    k: Positive = 32
    """Features active at each token (at a batch's mean token where a batch is chosen from)."""
    aux_weight: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of AuxK, which revives dead features; 0 switches it off."""
    k_aux: Positive | None = None
    """Dead features that take part in AuxK; d_in / 2 when absent."""

    @model_validator(mode="after")
    def _k_fits(self) -> "TopKOptions":
        # Beside another activation function k means nothing, its default included.
        if self.k > self.d_sae and getattr(self, "activation", None) is None:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({self.d_sae})")
        return self

    def auxk(self, d_in: int) -> list[TermSpec]:
        """The AuxK term, if it is on."""
        if not self.aux_weight:
            return []
        return [AuxKTerm(weight=self.aux_weight, k_aux=min(self.k_aux or max(1, d_in // 2), self.d_sae))]


class PartsOptions(TopKOptions):
    """Options of the sequence-aware presets: every slot is open to every part, so that ideas combine."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {"activation": ("k",)}

    activation: ActivationField | None = None
    """Another activation function than TopK of `k`, such as {kind: batch_topk, k: 32}."""
    norm: NormField = None
    """Norm of the centred input: {kind: layer} or {kind: batch}."""
    mixer: MixerField = None
    """Context mixer, such as {kind: conv, rates: [1, 2, 4]}."""
    kernel: KernelField = None
    """Feature kernel, such as {kind: conv, rates: [1, 2, 4]}."""
    position_mask: PositionMaskField = None
    """Position mask, such as {kind: soft, context: 128}."""
    feature_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an active feature is left out of a training reconstruction (the original logs: 0.2)."""


@dataclass(frozen=True)
class Preset:
    """One row of the preset table."""

    name: str
    summary: str
    paper: str
    options: type[Options]
    make: Callable[[Any, int, Normalisation], Spec]
    """(options, d_in, normalisation) -> spec; ValueError for options that can't go together."""


def assemble(
    preset: str,
    options: PartsOptions,
    d_in: int,
    normalisation: Normalisation,
    *,
    terms: Sequence[TermSpec] = (),
    mixer: MixerSpec | None = None,
    kernel: KernelSpec | None = None,
    **parts: Any,
) -> Spec:
    """The spec of a sequence-aware preset: what it is about, then whatever slots the user filled.

    Arguments:
        terms: the preset's own terms, before AuxK and the user's.
        mixer, kernel: the preset's own, unless the user gave one.
        parts: other fields of the spec that the preset decides.
    """
    activation: ActivationSpec = options.activation or TopK(k=options.k)
    slots = {
        "norm": options.norm,
        "mixer": options.mixer or mixer,
        "kernel": options.kernel or kernel,
        "position_mask": options.position_mask,
        "corruption": options.corruption,
        "feature_dropout": options.feature_dropout,
        "trackers": options.trackers,
    }
    chooses = isinstance(activation, TopK | BatchTopK)
    fields = type(options).model_fields
    given = [name for name in ("aux_weight", "k_aux") if getattr(options, name) not in (0, fields[name].default)]
    if given and not chooses:
        raise ValueError(f"{given[0]} is for activation functions that choose k features, not {activation.kind}")
    auxk = options.auxk(d_in) if chooses else []
    return Spec(
        preset=preset,
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=activation,
        terms=[*terms, *auxk, *options.extra_terms],
        **slots | parts,
    )
