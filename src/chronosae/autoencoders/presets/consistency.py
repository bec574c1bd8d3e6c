"""Temporal consistency: features vary little inside windows of neighbouring tokens (DESIGN 5.B)."""

from typing import Annotated

from pydantic import Field

from chronosae.autoencoders.parts.terms import ConsistencyTerm, CrossPositionTerm
from chronosae.autoencoders.presets.base import PartsOptions, Preset, assemble
from chronosae.autoencoders.spec import Normalisation, Spec


class ConsistencyOptions(PartsOptions):
    """Options of `consistency`."""

    window: Annotated[int, Field(ge=2)] = 8
    """Tokens in a window (the original logs also tried 16); one has no variance."""
    consistency_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the term (also tried: 0.5)."""
    cross_position_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the variance of each feature's mean over positions."""


def _make(options: ConsistencyOptions, d_in: int, normalisation: Normalisation) -> Spec:
    terms = [ConsistencyTerm(weight=options.consistency_weight, window=options.window)]
    cross = [CrossPositionTerm(weight=options.cross_position_weight)] if options.cross_position_weight else []
    return assemble("consistency", options, d_in, normalisation, terms=[*terms, *cross])


PRESET = Preset(
    name="consistency",
    summary="TopK plus a scale-free penalty on variance inside sliding windows",
    paper="ChronoSAE, DESIGN 5.B",
    options=ConsistencyOptions,
    make=_make,
)
