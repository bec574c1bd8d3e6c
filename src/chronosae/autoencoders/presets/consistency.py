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
    by_persistence: bool = False
    """Multiply each feature's share by P(it fires | it fired a token before): what never persists is left alone."""
    cross_position_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the variance of each feature's mean over positions."""


def _make(options: ConsistencyOptions, d_in: int, normalisation: Normalisation) -> Spec:
    consistency = ConsistencyTerm(
        weight=options.consistency_weight, window=options.window, by_persistence=options.by_persistence
    )
    cross = [CrossPositionTerm(weight=options.cross_position_weight)] if options.cross_position_weight else []
    return assemble("consistency", options, d_in, normalisation, terms=[consistency, *cross])


PRESET = Preset(
    name="consistency",
    summary="TopK plus a scale-free penalty on variance inside sliding windows",
    paper="this project",
    options=ConsistencyOptions,
    make=_make,
)
