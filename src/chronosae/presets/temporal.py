"""Our own sequence-aware architectures (DESIGN 5.A to 5.D), and `chrono`, our recommendation."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from chronosae.autoencoders import Normalisation, Spec
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.activations import ReLU, TopK
from chronosae.autoencoders.parts.inputs import Gaussian
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS
from chronosae.autoencoders.parts.temporal import FeatureConv, InputConv
from chronosae.objectives import (
    CausalPredictionTerm,
    CodeSeparationTerm,
    ConsistencyTerm,
    CorrelationTerm,
    CorrelationTracker,
    CosineTerm,
    CrossPositionTerm,
    LaggedTerm,
    OrthogonalityTerm,
)
from chronosae.presets.base import OURS, PRESETS, PartsPreset, check_target

Weight = Annotated[float, Field(ge=0)]


@PRESETS.add
class Multiscale(PartsPreset):
    """Dilated convolutions along the context, of features or of inputs; cosine separation."""

    name: ClassVar[str] = "multiscale"
    paper: ClassVar[str] = OURS
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {**PartsPreset.replaces, "corruption": ("denoise",)}

    placement: Literal["feature", "input"] = "feature"
    """`feature`: a feature kernel over pre-activations; `input`: a context mixer over the dimensions of the input."""
    rates: list[int] = Field(default=[1, 2, 4])
    """Dilations: a tap looks back 1, 2, ... times each."""
    kernel_size: Positive = 3
    """Taps of each dilation."""
    rank: Positive | None = None
    """`input`: rank of the projection back to d_in; full when absent."""
    centered: bool = False
    """`input`: look ahead as far as back (analysis only: such an autoencoder can't stream)."""
    depthwise: bool = True
    """`input`: False lets every channel see every other (analysis only)."""
    denoise: bool | None = None
    """Train on inputs with Gaussian noise of level 0.7 and clean targets. When absent: with `input` placement, which
    gains nothing without it. `corruption` sets another one."""
    cosine_weight: Weight = 0.1
    """Weight of cosine separation between decoder rows."""
    orthogonality_weight: Weight = 0.0
    """Weight of the orthogonality of decoder rows (the original logs: 0.01)."""
    code_separation_weight: Weight = 0.0
    """Weight of the separation of co-active features."""

    @model_validator(mode="after")
    def _placement_fits(self) -> "Multiscale":
        if self.placement == "feature" and (self.rank is not None or self.centered or not self.depthwise):
            raise ValueError("rank, centered and depthwise need placement: input")
        part = "kernel" if self.placement == "feature" else "mixer"
        given = sorted({"rates", "kernel_size"} & self.model_fields_set)
        if getattr(self, part) is not None and given:
            raise ValueError(f"{given[0]} means nothing beside {part}, which replaces it; leave one out")
        return self

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        at_input = self.placement == "input"
        mixer = InputConv(
            rates=self.rates,
            kernel_size=self.kernel_size,
            rank=self.rank,
            centered=self.centered,
            depthwise=self.depthwise,
        )
        noisy = at_input if self.denoise is None else self.denoise
        weights = {
            CosineTerm: self.cosine_weight,
            OrthogonalityTerm: self.orthogonality_weight,
            CodeSeparationTerm: self.code_separation_weight,
        }
        return self.compose(
            d_in,
            normalisation,
            terms=[term(weight=weight) for term, weight in weights.items() if weight],
            mixer=mixer if at_input else None,
            kernel=None if at_input else FeatureConv(rates=self.rates, kernel_size=self.kernel_size),
            corruption=self.corruption or (Gaussian() if noisy else None),
        )


@PRESETS.add
class Consistency(PartsPreset):
    """TopK plus a scale-free penalty on variance inside sliding windows."""

    name: ClassVar[str] = "consistency"
    paper: ClassVar[str] = OURS

    window: Annotated[int, Field(ge=2)] = 8
    """Tokens in a window (the original logs also tried 16); one has no variance."""
    consistency_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the term (also tried: 0.5)."""
    by_persistence: bool = False
    """Multiply each feature's share by P(it fires | it fired a token before): what never persists is left alone."""
    cross_position_weight: Weight = 0.0
    """Weight of the variance of each feature's mean over positions."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        consistency = ConsistencyTerm(
            weight=self.consistency_weight, window=self.window, by_persistence=self.by_persistence
        )
        cross = [CrossPositionTerm(weight=self.cross_position_weight)] if self.cross_position_weight else []
        return self.compose(d_in, normalisation, terms=[consistency, *cross])


@PRESETS.add
class Causal(PartsPreset):
    """TopK; beside it, which features predict which 1 to 4 tokens later, and a tracker of their co-activation."""

    name: ClassVar[str] = "causal"
    paper: ClassVar[str] = OURS

    window: Positive = 4
    """Earlier tokens that are looked back at (the original logs also tried 6)."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of the newest step in C, the running mean of interactions (also tried: 0.05)."""
    tau: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """An interaction R counts when 2R - 1 exceeds this (also tried: 0.15)."""
    prediction_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the prediction's negative log-likelihood, which the codes never feel (it is clipped apart)."""
    correlation_weight: Weight = 0.0
    """Weight of the RMS of 2R - 1, which the codes do feel (the design's value: 0.1); 0 switches it off."""
    rank: Positive = 16
    """Rank of the predictor's low-rank part, per lag."""
    entries: Positive = 32
    """Candidate edges (source, lag) of each feature, in the tracker and in the predictor's sparse part."""
    dense: bool = False
    """A full d_sae x d_sae predictor a lag instead of low rank plus candidates; refused above 4,096 features."""
    sample_tokens: Positive | None = 128
    """Tokens a step that the tracker and the correlation term look at; null: all."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        prediction = CausalPredictionTerm(
            weight=self.prediction_weight,
            window=self.window,
            rank=self.rank,
            entries=self.entries,
            dense=self.dense,
            tau=self.tau,
        )
        correlation = CorrelationTerm(weight=self.correlation_weight or 0.1, sample_tokens=self.sample_tokens)
        tracker = CorrelationTracker(
            window=self.window, entries=self.entries, alpha=self.alpha, sample_tokens=self.sample_tokens
        )
        given = any(isinstance(other, CorrelationTracker) for other in self.trackers)
        return self.compose(
            d_in,
            normalisation,
            terms=[prediction, correlation] if self.correlation_weight else [prediction],
            trackers=self.trackers if given else [tracker, *self.trackers],
        )


@PRESETS.add
class Lagged(PartsPreset):
    """ReLU codes explained by earlier and simultaneous codes, L1 on what stays unexplained.

    Song et al. 2025. The paper's objective has no other sparsity than the L1 norm of the innovations, so codes are ReLU
    by default; with `k` they are TopK, and any other activation function fits.
    """

    name: ClassVar[str] = "lagged"
    paper: ClassVar[str] = "arXiv 2509.23323"

    k: Positive | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Features active at each token (TopK); null: ReLU, as in the paper."""

    lags: Positive = 4
    """Earlier tokens that act on a token."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the L1 norm of the innovations; the start value when `target_l0` is set."""
    beta: Weight = 1e-2
    """Weight of the L1 norms of B and M; too small, and M explains codes by one another while they grow dense."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer alpha (beta with it) until this many features are active a token."""
    entries: Positive = 32
    """Above 4,096 features: pairs (source, lag) that each target has a weight for."""
    sample_tokens: Positive | None = 256
    """Target tokens a step; null: all."""

    @model_validator(mode="after")
    def _k_fits(self) -> "Lagged":
        if self.k is not None and self.k > self.d_sae:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({self.d_sae})")
        return self

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        check_target(self.target_l0, self.d_sae)
        activation = self.activation or (ReLU() if self.k is None else TopK(k=self.k))
        if self.target_l0 is not None and hasattr(activation, "k"):
            raise ValueError(f"target_l0 has nothing to steer: {activation.kind} fixes the active features itself")
        term = LaggedTerm(
            weight=self.alpha,
            beta=self.beta,
            lags=self.lags,
            target_l0=self.target_l0,
            entries=self.entries,
            sample_tokens=self.sample_tokens,
        )
        return self.compose(d_in, normalisation, activation=activation, terms=[term])


@PRESETS.add
class Positional(PartsPreset):
    """TopK under a mask of positions: soft, importance, hard, slices or groups.

    `position_mask` sets every detail, the other options its usual ones.
    """

    name: ClassVar[str] = "positional"
    paper: ClassVar[str] = OURS
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {
        **PartsPreset.replaces,
        "position_mask": (
            "mask",
            "context",
            "beyond",
            "masked_gradients",
            "initial",
            "mask_lr_multiplier",
            "mask_lr_schedule",
        ),
    }

    mask: Literal["soft", "importance", "hard", "slices", "groups"] = "soft"
    """Kind of mask."""
    context: Positive = 128
    """Positions that the mask knows."""
    beyond: Literal["error", "last", "wrap"] = "error"
    """What later positions get."""
    masked_gradients: bool = False
    """Encoder, decoder and bias learn only where the mask is at least 0.5."""
    initial: tuple[float, float] | None = None
    """`soft`: range of the initial mask, [0.3, 0.7] when absent (the original logs also used [0.1, 0.2])."""
    mask_lr_multiplier: Annotated[float, Field(gt=0)] | None = None
    """`soft` and `importance`: learning rate of the mask relative to the run's; 10 and 12 when absent."""
    mask_lr_schedule: Literal["run", "constant", "cosine"] | None = None
    """`soft` and `importance`: schedule of that rate, the run's when absent."""

    @model_validator(mode="after")
    def _mask_fits(self) -> "Positional":
        learned = {"mask_lr_multiplier": self.mask_lr_multiplier, "mask_lr_schedule": self.mask_lr_schedule}
        given = [name for name, value in learned.items() if value is not None]
        if given and self.mask not in ("soft", "importance"):
            raise ValueError(f"{given[0]} is for masks that learn (soft, importance); a {self.mask} mask is fixed")
        if self.initial is not None and self.mask != "soft":
            raise ValueError(f"initial is for the soft mask, this one is {self.mask}")
        POSITION_MASKS.read(self.details())
        return self

    def details(self) -> dict[str, object]:
        """The mask as a mapping."""
        given = {
            "initial": self.initial,
            "lr_multiplier": self.mask_lr_multiplier,
            "lr_schedule": self.mask_lr_schedule,
        }
        return {
            "kind": self.mask,
            "context": self.context,
            "beyond": self.beyond,
            "masked_gradients": self.masked_gradients,
            **{name: value for name, value in given.items() if value is not None},
        }

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        mask = self.position_mask or POSITION_MASKS.read(self.details())
        return self.compose(d_in, normalisation, position_mask=mask)


@PRESETS.add
class Chrono(PartsPreset):
    """Recommended: feature kernels over time, consistency, TopK."""

    name: ClassVar[str] = "chrono"
    paper: ClassVar[str] = OURS
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {**PartsPreset.replaces, "kernel": ("rates", "kernel_size")}

    rates: list[int] = Field(default=[1, 2, 4])
    """Dilations of the feature kernels."""
    kernel_size: Positive = 3
    """Taps of each dilation, the current token's included."""
    window: Annotated[int, Field(ge=2)] = 8
    """Tokens in a window of the consistency term."""
    consistency_weight: Weight = 0.3
    """Weight of the consistency term, each feature's share by its persistence; 0 leaves feature kernels alone."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        weight = self.consistency_weight
        return self.compose(
            d_in,
            normalisation,
            terms=[ConsistencyTerm(weight=weight, window=self.window, by_persistence=True)] if weight else [],
            kernel=FeatureConv(rates=self.rates, kernel_size=self.kernel_size),
        )
