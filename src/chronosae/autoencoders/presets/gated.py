"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from typing import Annotated

from pydantic import Field

from chronosae.autoencoders.parts.activations import Gated
from chronosae.autoencoders.parts.terms import GateAuxTerm, GateL1Term
from chronosae.autoencoders.presets.base import Options, Preset
from chronosae.autoencoders.spec import Normalisation, Spec


class GatedOptions(Options):
    """Options of `gated`."""

    l1_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the gates' L1, in units where mean ||x|| is sqrt(d_in); the start value when `target_l0` is set."""
    l1_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer the weight until this many features are active a token; landing more than 5 % off is flagged."""


def _make(options: GatedOptions, d_in: int, normalisation: Normalisation) -> Spec:
    if options.target_l0 is not None and options.target_l0 > options.d_sae:
        raise ValueError(f"target_l0 ({options.target_l0}) must be at most d_sae ({options.d_sae})")
    penalty = GateL1Term(
        weight=options.l1_weight, warmup_fraction=options.l1_warmup_fraction, target_l0=options.target_l0
    )
    return Spec(
        preset="gated",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=Gated(),
        terms=[penalty, GateAuxTerm(), *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="gated",
    summary="one gate and one magnitude a feature; L1 on the gates only, so magnitudes don't shrink",
    paper="arXiv 2404.16014",
    options=GatedOptions,
    make=_make,
)
