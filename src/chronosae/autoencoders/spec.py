"""What an autoencoder is made of, as data: the part of `cfg.json` that decides what it computes and how it is trained.

A body says how vectors become pre-activations and codes become vectors. Other parts combine freely: each slot takes any
kind that its registry knows. A preset is a function that makes one `Spec`. Specs name no classes that compute: the
`assembly` knows which one a body needs.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.activations import ACTIVATIONS, ActivationSpec
from chronosae.autoencoders.parts.inputs import CORRUPTIONS, NORMS, CorruptionSpec, NormSpec
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS, PositionMaskSpec
from chronosae.autoencoders.parts.temporal import FEATURE_KERNELS, MIXERS, FeatureKernelSpec, MixerSpec
from chronosae.autoencoders.parts.terms import TERMS, TRACKERS, TermSpec, TrackerSpec
from chronosae.config import Section
from chronosae.config.registry import PartSpec, Registry

BODIES: Registry["BodySpec"] = Registry("body")


class BodySpec(PartSpec):
    """Base of the bodies."""

    @property
    def causal(self) -> bool:
        """No code depends on a later token."""
        return True

    @property
    def receptive_field(self) -> int | None:
        """Tokens that a code can depend on, its own included; None: all earlier ones."""
        return 1

    def check(self, spec: Any) -> None:
        """ValueError when the rest of the spec can't go with this body."""


@BODIES.add
class Linear(BodySpec):
    """One linear encoder, one linear decoder."""

    kind: Literal["linear"] = "linear"


class _WithoutParts(BodySpec):
    """Base of the bodies that have an encoder of their own, into which no other part fits."""

    def check(self, spec: Any) -> None:
        for slot in ("norm", "mixer", "kernel", "position_mask"):
            if getattr(spec, slot) is not None:
                raise ValueError(f"the {self.kind} body takes no {slot}; leave it out")
        if spec.resample_every:
            raise ValueError(f"the {self.kind} body can't resample dead features; set resample_every to 0")


@BODIES.add
class WindowedBody(_WithoutParts):
    """Codes of a window of tokens: z_t belongs to the `window` tokens that end at t, and decodes to all of them."""

    kind: Literal["crosscoder"] = "crosscoder"
    window: int = Field(ge=2)
    """Tokens in a window, t included."""
    shared: bool = True
    """True: every feature reads and writes the whole window (a temporal crosscoder); False: the features fall into
    `window` equal blocks, block s an autoencoder of its own over x_{t-s} (the stacked control, at equal L0)."""

    @property
    def receptive_field(self) -> int | None:
        return self.window

    def check(self, spec: Any) -> None:
        super().check(spec)
        for term in spec.terms:
            if term.one_row_a_feature:
                raise ValueError(
                    f"the {term.kind} term reads one decoder vector a feature; the crosscoder body has one a slice"
                )
        if not self.shared:
            self._check_blocks(spec)

    def _check_blocks(self, spec: Any) -> None:
        if spec.activation.kind not in ("relu", "topk", "batch_topk"):
            raise ValueError(f"stacked autoencoders take relu, topk or batch_topk, not {spec.activation.kind}")
        k = getattr(spec.activation, "k", self.window)
        if spec.d_sae % self.window or k % self.window:
            and_k = "" if spec.activation.kind == "relu" else f" and k ({k})"
            raise ValueError(
                f"window ({self.window}) must divide d_sae ({spec.d_sae}){and_k}: stacked autoencoders get equal shares"
            )


@BODIES.add
class Predictive(_WithoutParts):
    """Temporal feature analysis: attention over earlier codes predicts, sparse codes hold what is new (2511.01836)."""

    kind: Literal["predictive"] = "predictive"
    n_heads: Positive = 4
    """Attention heads."""
    n_attn_layers: Positive = 1
    """Predictions made one after another, each from what the last left over."""
    bottleneck_factor: Positive = 64
    """Queries and keys are d_sae / bottleneck_factor wide."""
    tied: bool = True
    """The encoder is the transposed decoder."""
    lr_multiplier: float | None = Field(default=None, gt=0)
    """Learning rate of the dictionary, relative to the run's; sqrt(d_in) when absent, since its rows start that much
    longer than the unit rows of other autoencoders and would else turn that much more slowly."""

    @property
    def receptive_field(self) -> int | None:
        return None

    def check(self, spec: Any) -> None:
        super().check(spec)
        if spec.decoder != "free":
            raise ValueError("the predictive body scales its encoder to a decoder that is free; set decoder to free")
        if spec.activation.needs_term:
            raise ValueError(
                f"the predictive body can't train the gates of the {spec.activation.kind} activation; take another one"
            )
        if spec.d_sae % (self.n_heads * self.bottleneck_factor):
            raise ValueError(
                f"d_sae ({spec.d_sae}) must be a multiple of n_heads x bottleneck_factor"
                f" ({self.n_heads} x {self.bottleneck_factor})"
            )


# One slot each; None where the slot may stay empty.
NormField = Annotated[SerializeAsAny[NormSpec] | None, NORMS.validator()]
MixerField = Annotated[SerializeAsAny[MixerSpec] | None, MIXERS.validator()]
FeatureKernelField = Annotated[SerializeAsAny[FeatureKernelSpec] | None, FEATURE_KERNELS.validator()]
PositionMaskField = Annotated[SerializeAsAny[PositionMaskSpec] | None, POSITION_MASKS.validator()]
ActivationField = Annotated[SerializeAsAny[ActivationSpec], ACTIVATIONS.validator()]
CorruptionField = Annotated[SerializeAsAny[CorruptionSpec] | None, CORRUPTIONS.validator()]
TermField = Annotated[SerializeAsAny[TermSpec], TERMS.validator()]
TrackerField = Annotated[SerializeAsAny[TrackerSpec], TRACKERS.validator()]
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
    kernel: FeatureKernelField = None
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
    trackers: list[TrackerField] = Field(default_factory=list)
    """What is watched while it trains."""
    resample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between re-initialisations of dead features (Bricken et al. 2023); 0 is never."""

    @model_validator(mode="after")
    def _fits(self) -> "Spec":
        self.activation.check(self.d_sae)
        for sort, parts in (("term", self.terms), ("tracker", self.trackers)):
            kinds = [part.kind for part in parts]
            twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
            if twice:
                raise ValueError(f"{sort} {twice!r} is given twice")
        for term in self.terms:
            term.check_spec(self)
        given = {term.kind for term in self.terms}
        for kind, activation in ACTIVATIONS.kinds.items():
            needed = activation.needs_term
            if needed and (needed in given) != (self.activation.kind == kind):
                raise ValueError(
                    f"the {kind} activation and the {needed} term need each other: nothing else trains the gate"
                )
        self.body.check(self)
        return self

    @property
    def causal(self) -> bool:
        """No code depends on a later token."""
        return self.body.causal and (self.mixer is None or self.mixer.lookahead == 0)

    @property
    def slots(self) -> int | None:
        """Features that are active at a token, where the activation function alone decides and says how many."""
        # What TFA predicts from the past is dense, so its L0 says nothing of k.
        return None if isinstance(self.body, Predictive) else self.activation.slots

    @property
    def receptive_field(self) -> int | None:
        """Tokens that a code can depend on, its own included; None: all earlier ones."""
        if self.body.receptive_field is None:
            return None
        field = self.body.receptive_field
        if self.mixer is not None:
            field += self.mixer.history + self.mixer.lookahead
        return field + (self.kernel.history if self.kernel is not None else 0)
