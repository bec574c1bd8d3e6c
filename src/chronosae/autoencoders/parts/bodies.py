"""Bodies: how vectors become pre-activations and codes become vectors. Each names the class that does it."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from chronosae.autoencoders.parts.base import PartSpec, Positive, Registry

if TYPE_CHECKING:
    from chronosae.autoencoders.autoencoder import Autoencoder

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

    def autoencoder(self) -> "type[Autoencoder]":
        """The class that computes it."""
        raise NotImplementedError


@BODIES.add
class Linear(BodySpec):
    """One linear encoder, one linear decoder."""

    kind: Literal["linear"] = "linear"

    def autoencoder(self) -> "type[Autoencoder]":
        from chronosae.autoencoders.autoencoder import Autoencoder

        return Autoencoder


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
            if term.kind in ("cosine", "orthogonality", "nested", "gate_aux") or getattr(
                term, "decoder_weighted", False
            ):
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
            raise ValueError(
                f"window ({self.window}) must divide d_sae ({spec.d_sae})"
                + ("" if spec.activation.kind == "relu" else f" and k ({k})")
                + ": stacked autoencoders get equal shares"
            )

    def autoencoder(self) -> "type[Autoencoder]":
        from chronosae.autoencoders.crosscoder import Crosscoder

        return Crosscoder


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
        if spec.activation.kind == "gated":
            raise ValueError("the predictive body can't train the gates of the gated activation; take another one")
        if spec.d_sae % (self.n_heads * self.bottleneck_factor):
            raise ValueError(
                f"d_sae ({spec.d_sae}) must be a multiple of n_heads x bottleneck_factor"
                f" ({self.n_heads} x {self.bottleneck_factor})"
            )

    def autoencoder(self) -> "type[Autoencoder]":
        from chronosae.autoencoders.predictive import PredictiveAutoencoder

        return PredictiveAutoencoder
