"""Published relatives that read several tokens: baselines to beat."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from chronosae.autoencoders import Normalisation, Spec
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.activations import TopK
from chronosae.autoencoders.spec import ActivationField, Predictive, WindowedBody
from chronosae.objectives import ContrastiveTerm, NovelL1Term, WindowTerm
from chronosae.presets.base import PRESETS, Preset, TopKPreset
from chronosae.presets.static import BatchChoice, check_split, nested


@PRESETS.add
class TSAE(BatchChoice):
    """Two nested groups, the high-level one contrasted between neighbouring tokens.

    Bhalla et al. 2025.
    """

    name: ClassVar[str] = "tsae"
    paper: ClassVar[str] = "arXiv 2511.05541"

    form: Literal["release", "paper"] = "release"
    """`release`: raw dot products, group weights 0.2 and 0.8 (the published code); `paper`: cosine over a temperature,
    both groups' errors at weight 1."""
    split: list[Annotated[float, Field(gt=0)]] = Field(default=[0.2, 0.8], min_length=2, max_length=2)
    """Shares of high-level and low-level features; they sum to 1."""
    contrastive_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the contrast (alpha)."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the `paper` form."""
    pair: Literal["previous", "random"] = "previous"
    """The earlier token: the one before, or any earlier one of the document."""

    @model_validator(mode="after")
    def _whole(self) -> "TSAE":
        check_split(self.split)
        return self

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        term, whole = nested(self.split, [0.2, 0.8])
        if self.form == "paper":
            term, whole = term.model_copy(update={"weights": [1.0]}), 1.0
        contrast = ContrastiveTerm(
            weight=self.contrastive_weight or 1.0,
            form=self.form,
            temperature=self.temperature,
            share=self.split[0],
            pair=self.pair,
        )
        terms = [term, contrast] if self.contrastive_weight else [term]
        return self.choose(d_in, normalisation, *terms, reconstruction_weight=whole)


@PRESETS.add
class TFA(Preset):
    """Attention over earlier codes predicts, k novel codes hold the rest; total L0 is dense.

    Temporal feature analysis (Lubana et al. 2025). d_sae must be a multiple of n_heads x bottleneck_factor. Its body
    has an encoder of its own, into which no position mask fits.
    """

    name: ClassVar[str] = "tfa"
    paper: ClassVar[str] = "arXiv 2511.01836"
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {"activation": ("k",)}

    k: Positive = 32
    """Novel features active at each token. The predicted codes are dense and come on top."""
    activation: ActivationField | None = None
    """Another activation function of the novel codes than TopK of `k`: {kind: batch_topk, k: 32} or {kind: relu}."""
    l1_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of an L1 penalty on the novel codes; needed with relu, which nothing else keeps sparse."""
    n_heads: Positive = 4
    """Attention heads."""
    n_attn_layers: Positive = 1
    """Predictions made one after another, each from what the last left over."""
    bottleneck_factor: Positive = 64
    """Queries and keys are d_sae / bottleneck_factor wide."""
    tied: bool = True
    """The encoder is the transposed decoder."""
    lr_multiplier: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the dictionary, relative to the run's; sqrt(d_in) when absent, as its rows start sqrt(d_in)
    long. The published training has 1."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        body = Predictive(
            n_heads=self.n_heads,
            n_attn_layers=self.n_attn_layers,
            bottleneck_factor=self.bottleneck_factor,
            tied=self.tied,
            lr_multiplier=self.lr_multiplier,
        )
        return self.assemble(
            d_in,
            normalisation,
            body=body,
            activation=self.activation or TopK(k=self.k),
            decoder="free",
            terms=[NovelL1Term(weight=self.l1_weight)] if self.l1_weight else [],
        )


@PRESETS.add
class TXC(TopKPreset):
    """Temporal crosscoder: one code for the window of tokens that ends here.

    "Crosscoding Through Time", ICML 2026 workshop; k is what the paper calls kT, the features active in a token's code
    for the whole window. No position mask fits: a code belongs to several positions.
    """

    name: ClassVar[str] = "txc"
    paper: ClassVar[str] = "openreview JfN7nRdBxA"
    shared: ClassVar[bool] = True
    """Every feature reads and writes the whole window."""

    window: Annotated[int, Field(ge=2)] = 5
    """Tokens that a code reads and writes: its own and those before it."""

    def spec(self, d_in: int, normalisation: Normalisation) -> Spec:
        """The loss is the mean over slices of the squared error."""
        T = self.window
        return self.assemble(
            d_in,
            normalisation,
            body=WindowedBody(window=T, shared=self.shared),
            activation=self.activation or TopK(k=self.k),
            reconstruction_weight=1 / T,
            terms=[WindowTerm(weight=(T - 1) / T), *self.auxk(d_in)],
        )


@PRESETS.add
class Stacked(TXC):
    """Control of txc at equal L0: one independent autoencoder a place in the window, k / window features each.

    window must divide d_sae and k.
    """

    name: ClassVar[str] = "stacked"
    shared: ClassVar[bool] = False

    window: Annotated[int, Field(ge=2)] = 4
    """Autoencoders, one a place in the window, each with its share of d_sae and k; 4, as it divides the defaults."""
