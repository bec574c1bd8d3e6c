"""Stacked autoencoders: the crosscoder's control, one independent autoencoder for each place in the window."""

from typing import Annotated

from pydantic import Field

from chronosae.autoencoders.presets.base import Preset
from chronosae.autoencoders.presets.txc import TXCOptions, windowed_spec
from chronosae.autoencoders.spec import Normalisation, Spec


class StackedOptions(TXCOptions):
    """Options of `stacked`; window must divide d_sae and k."""

    window: Annotated[int, Field(ge=2)] = 4
    """Autoencoders, one a place in the window, each with its share of d_sae and k; 4, as it divides the defaults."""


def _make(options: StackedOptions, d_in: int, normalisation: Normalisation) -> Spec:
    return windowed_spec("stacked", options, d_in, normalisation, shared=False)


PRESET = Preset(
    name="stacked",
    summary="control of txc at equal L0: one independent autoencoder a place in the window, k / window features each",
    paper="openreview JfN7nRdBxA",
    options=StackedOptions,
    make=_make,
)
