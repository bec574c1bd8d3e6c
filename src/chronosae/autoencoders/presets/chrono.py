"""Our recommendation: feature kernels, consistency and TopK together."""

from typing import Annotated, ClassVar

from pydantic import Field

from chronosae.autoencoders.parts.feature_kernels import FeatureConv
from chronosae.autoencoders.parts.terms import ConsistencyTerm
from chronosae.autoencoders.presets.base import PartsOptions, Positive, Preset, assemble
from chronosae.autoencoders.spec import Normalisation, Spec


class ChronoOptions(PartsOptions):
    """Options of `chrono`."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {**PartsOptions.replaces, "kernel": ("rates", "kernel_size")}

    rates: list[int] = Field(default=[1, 2, 4])
    """Dilations of the feature kernels."""
    kernel_size: Positive = 3
    """Taps of each dilation, the current token's included."""
    window: Annotated[int, Field(ge=2)] = 8
    """Tokens in a window of the consistency term."""
    consistency_weight: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the consistency term, each feature's share by its persistence; 0 leaves the kernels alone."""


def _make(options: ChronoOptions, d_in: int, normalisation: Normalisation) -> Spec:
    weight = options.consistency_weight
    return assemble(
        "chrono",
        options,
        d_in,
        normalisation,
        terms=[ConsistencyTerm(weight=weight, window=options.window, by_persistence=True)] if weight else [],
        kernel=FeatureConv(rates=options.rates, kernel_size=options.kernel_size),
    )


PRESET = Preset(
    name="chrono",
    summary="recommended: a temporal kernel a feature, consistency, TopK",
    paper="this project",
    options=ChronoOptions,
    make=_make,
)
