"""Temporal feature analysis (Lubana et al. 2025, arXiv 2511.01836): predictive and novel codes."""

from typing import Annotated, ClassVar

from pydantic import Field

from chronosae.autoencoders.parts.activations import TopK
from chronosae.autoencoders.parts.bodies import Predictive
from chronosae.autoencoders.parts.terms import NovelL1Term
from chronosae.autoencoders.presets.base import Options, Positive, Preset
from chronosae.autoencoders.spec import ActivationField, Normalisation, Spec


class TFAOptions(Options):
    """Options of `tfa`; d_sae must be a multiple of n_heads x bottleneck_factor."""

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


def _make(options: TFAOptions, d_in: int, normalisation: Normalisation) -> Spec:
    return Spec(
        preset="tfa",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        body=Predictive(
            n_heads=options.n_heads,
            n_attn_layers=options.n_attn_layers,
            bottleneck_factor=options.bottleneck_factor,
            tied=options.tied,
            lr_multiplier=options.lr_multiplier,
        ),
        activation=options.activation or TopK(k=options.k),
        decoder="free",
        terms=[*([NovelL1Term(weight=options.l1_weight)] if options.l1_weight else []), *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="tfa",
    summary="attention over earlier codes predicts, k novel codes hold the rest; total L0 is dense",
    paper="arXiv 2511.01836",
    options=TFAOptions,
    make=_make,
)
