"""Winner-take-all with lifetime sparsity (Makhzani & Frey 2015, arXiv 1409.2752)."""

from typing import Annotated

from pydantic import Field

from chronosae.autoencoders.parts.activations import WinnerTakeAll
from chronosae.autoencoders.presets.base import Options, Preset
from chronosae.autoencoders.spec import Normalisation, Spec


class WinnerTakeAllOptions(Options):
    """Options of `winner_take_all`."""

    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of tokens that each feature may fire on; `k / d_sae` when absent."""
    k: Annotated[float, Field(gt=0)] = 32.0
    """Mean number of features active at a token, when `rate` is absent."""


def _make(options: WinnerTakeAllOptions, d_in: int, normalisation: Normalisation) -> Spec:
    if options.rate is None and options.k > options.d_sae:
        raise ValueError(f"k ({options.k}) must be at most d_sae ({options.d_sae})")
    return Spec(
        preset="winner_take_all",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=WinnerTakeAll(rate=options.rate or options.k / options.d_sae),
        terms=[*options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="winner_take_all",
    summary="each feature fires on its strongest share of tokens, so none dies",
    paper="arXiv 1409.2752",
    options=WinnerTakeAllOptions,
    make=_make,
)
