"""Temporal causal: learns which features earlier predict which now, and tracks their interactions (DESIGN 5.C)."""

from typing import Annotated

from pydantic import Field

from chronosae.autoencoders.parts.relations import CausalPredictionTerm, CorrelationTerm, CorrelationWatcher
from chronosae.autoencoders.presets.base import PartsOptions, Positive, Preset, assemble
from chronosae.autoencoders.spec import Normalisation, Spec


class CausalOptions(PartsOptions):
    """Options of `causal`."""

    window: Positive = 4
    """Earlier tokens that are looked back at (the original logs also tried 6)."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of the newest step in C, the running mean of interactions (also tried: 0.05)."""
    tau: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """An interaction R counts when 2R - 1 exceeds this (also tried: 0.15)."""
    prediction_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the prediction's negative log-likelihood, which the codes never feel (it is clipped apart)."""
    correlation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the RMS of 2R - 1, which the codes do feel (the design's value: 0.1); 0 switches it off."""
    rank: Positive = 16
    """Rank of the predictor's low-rank part, per lag."""
    entries: Positive = 32
    """Candidate edges (source, lag) of each feature, in the tracker and in the predictor's sparse part."""
    dense: bool = False
    """A full d_sae x d_sae predictor a lag instead of low rank plus candidates; refused above 4,096 features."""
    sample_tokens: Positive | None = 128
    """Tokens a step that the tracker and the correlation term look at; null: all."""


def _make(options: CausalOptions, d_in: int, normalisation: Normalisation) -> Spec:
    prediction = CausalPredictionTerm(
        weight=options.prediction_weight,
        window=options.window,
        rank=options.rank,
        entries=options.entries,
        dense=options.dense,
        tau=options.tau,
    )
    prediction.check(options.d_sae)
    correlation = CorrelationTerm(weight=options.correlation_weight or 0.1, sample_tokens=options.sample_tokens)
    tracker = CorrelationWatcher(
        window=options.window,
        entries=options.entries,
        alpha=options.alpha,
        sample_tokens=options.sample_tokens,
    )
    return assemble(
        "causal",
        options,
        d_in,
        normalisation,
        terms=[prediction, correlation] if options.correlation_weight else [prediction],
        trackers=[*([] if any(t.kind == tracker.kind for t in options.trackers) else [tracker]), *options.trackers],
    )


PRESET = Preset(
    name="causal",
    summary="TopK; beside it, which features predict which 1 to 4 tokens later, and a tracker of their co-activation",
    paper="this project",
    options=CausalOptions,
    make=_make,
)
