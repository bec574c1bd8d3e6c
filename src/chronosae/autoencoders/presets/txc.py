"""Temporal crosscoder (TXC): one code for a window of tokens ("Crosscoding Through Time", ICML 2026 workshop)."""

from typing import Annotated, ClassVar

from pydantic import Field

from chronosae.autoencoders.parts.activations import TopK
from chronosae.autoencoders.parts.bodies import WindowedBody
from chronosae.autoencoders.parts.terms import WindowTerm
from chronosae.autoencoders.presets.base import Preset, TopKOptions
from chronosae.autoencoders.spec import ActivationField, Normalisation, Spec


class TXCOptions(TopKOptions):
    """Options of `txc`; k is what the paper calls kT, the features active in a token's code for the whole window."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {"activation": ("k",)}

    window: Annotated[int, Field(ge=2)] = 5
    """Tokens that a code reads and writes: its own and those before it."""
    activation: ActivationField | None = None
    """Another activation function than TopK of `k`, such as {kind: batch_topk, k: 32}."""


def windowed_spec(preset: str, options: TXCOptions, d_in: int, normalisation: Normalisation, *, shared: bool) -> Spec:
    """The spec of a windowed autoencoder; its loss is the mean over slices of the squared error."""
    T = options.window
    return Spec(
        preset=preset,
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        body=WindowedBody(window=T, shared=shared),
        activation=options.activation or TopK(k=options.k),
        reconstruction_weight=1 / T,
        terms=[WindowTerm(weight=(T - 1) / T), *options.auxk(d_in), *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


def _make(options: TXCOptions, d_in: int, normalisation: Normalisation) -> Spec:
    return windowed_spec("txc", options, d_in, normalisation, shared=True)


PRESET = Preset(
    name="txc",
    summary="temporal crosscoder: one code for the window of tokens that ends here",
    paper="openreview JfN7nRdBxA",
    options=TXCOptions,
    make=_make,
)
