"""What an autoencoder is made of, as data: the part of `cfg.json` that decides what it computes and how it is trained.

Parts combine freely: each slot takes any kind that its registry knows. A preset is a function that makes one `Spec`.
"""

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from chronosae.autoencoders.parts.activations import ACTIVATIONS, ActivationSpec, BatchTopK, TopK
from chronosae.autoencoders.parts.bodies import BODIES, BodySpec, Linear
from chronosae.autoencoders.parts.corruptions import CORRUPTIONS, CorruptionSpec
from chronosae.autoencoders.parts.feature_kernels import KERNELS, KernelSpec
from chronosae.autoencoders.parts.mixers import MIXERS, MixerSpec
from chronosae.autoencoders.parts.norms import NORMS, NormSpec
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS, PositionMaskSpec
from chronosae.autoencoders.parts.terms import TERMS, TermSpec
from chronosae.autoencoders.parts.watchers import WATCHERS, WatcherSpec
from chronosae.config import Section

Positive = Annotated[int, Field(gt=0)]

# One slot each; None where the slot may stay empty.
NormField = Annotated[SerializeAsAny[NormSpec] | None, NORMS.validator()]
MixerField = Annotated[SerializeAsAny[MixerSpec] | None, MIXERS.validator()]
KernelField = Annotated[SerializeAsAny[KernelSpec] | None, KERNELS.validator()]
PositionMaskField = Annotated[SerializeAsAny[PositionMaskSpec] | None, POSITION_MASKS.validator()]
ActivationField = Annotated[SerializeAsAny[ActivationSpec], ACTIVATIONS.validator()]
CorruptionField = Annotated[SerializeAsAny[CorruptionSpec] | None, CORRUPTIONS.validator()]
TermField = Annotated[SerializeAsAny[TermSpec], TERMS.validator()]
WatcherField = Annotated[SerializeAsAny[WatcherSpec], WATCHERS.validator()]
BodyField = Annotated[SerializeAsAny[BodySpec], BODIES.validator()]


class Normalisation(Section):
    """What is done to an input vector before anything else (section 4 of the design)."""

    kind: Literal["dataset", "token", "none"] = "none"
    """`dataset`: multiply by `factor`; `token`: bring each vector's norm to sqrt(d_in); `none`."""
    factor: float = Field(default=1.0, gt=0)
    """`dataset`: sqrt(d_in) / mean norm, measured on the training activations."""


class Spec(Section):
    """A whole autoencoder."""

    preset: str
    """The preset it was made from."""
    d_in: Positive
    """Width at the site."""
    d_sae: Positive
    """Number of features."""
    normalisation: Normalisation = Normalisation()
    body: BodyField = Linear()
    """How codes and vectors are tied together; a linear encoder and decoder unless said otherwise."""
    norm: NormField = None
    mixer: MixerField = None
    kernel: KernelField = None
    position_mask: PositionMaskField = None
    activation: ActivationField
    decoder: Literal["unit_norm", "free"] = "unit_norm"
    """`unit_norm`: rows of W_dec stay at norm 1, gradients are projected onto the sphere."""
    reconstruction_weight: float = Field(default=1.0, ge=0)
    """Weight of the reconstruction error."""
    terms: list[TermField] = Field(default_factory=list)
    """Objective terms beside the reconstruction error."""
    corruption: CorruptionField = None
    """Damage done to training inputs; the target stays clean."""
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that an active feature is left out of a training reconstruction; the others grow to make up."""
    trackers: list[WatcherField] = Field(default_factory=list)
    """What is watched while it trains."""
    resample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between re-initialisations of dead features (Bricken et al. 2023); 0 is never."""

    @model_validator(mode="after")
    def _fits(self) -> "Spec":
        if isinstance(self.activation, TopK | BatchTopK) and self.activation.k > self.d_sae:
            raise ValueError(f"k ({self.activation.k}) must be at most d_sae ({self.d_sae})")
        kinds = [term.kind for term in self.terms]
        twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
        if twice:
            raise ValueError(f"term {twice!r} is given twice")
        watched = [tracker.kind for tracker in self.trackers]
        twice = next((kind for kind in watched if watched.count(kind) > 1), None)
        if twice:
            raise ValueError(f"tracker {twice!r} is given twice")
        for term in self.terms:
            term.check_spec(self)
        if ("gate_aux" in kinds) != (self.activation.kind == "gated"):
            raise ValueError("the gated activation and the gate_aux term need each other: nothing else trains the gate")
        self.body.check(self)
        return self

    @property
    def causal(self) -> bool:
        """No code depends on a later token."""
        return self.body.causal and (self.mixer is None or self.mixer.lookahead == 0)

    @property
    def receptive_field(self) -> int | None:
        """Tokens that a code can depend on, its own included; None: all earlier ones."""
        if self.body.receptive_field is None:
            return None
        field = self.body.receptive_field
        if self.mixer is not None:
            field += self.mixer.history + self.mixer.lookahead
        return field + (self.kernel.history if self.kernel is not None else 0)
