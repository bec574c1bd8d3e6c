"""JumpReLU with an L0 penalty (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from typing import Annotated

from pydantic import Field

from chronosae.autoencoders.parts.activations import JumpReLU
from chronosae.autoencoders.parts.terms import L0Term
from chronosae.autoencoders.presets.base import Options, Preset
from chronosae.autoencoders.spec import Normalisation, Spec


class JumpReLUOptions(Options):
    """Options of `jump_relu`."""

    l0_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the penalty, in units where mean ||x|| is sqrt(d_in); the start value when `target_l0` is set."""
    l0_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer the weight until this many features are active a token; landing more than 5 % off is flagged."""
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """Where every feature's threshold starts, in the same units."""
    bandwidth: Annotated[float, Field(gt=0)] = 0.5
    """Width of the straight-through estimate, in the same units."""


def _make(options: JumpReLUOptions, d_in: int, normalisation: Normalisation) -> Spec:
    if options.target_l0 is not None and options.target_l0 > options.d_sae:
        raise ValueError(f"target_l0 ({options.target_l0}) must be at most d_sae ({options.d_sae})")
    penalty = L0Term(weight=options.l0_weight, warmup_fraction=options.l0_warmup_fraction, target_l0=options.target_l0)
    return Spec(
        preset="jump_relu",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=JumpReLU(threshold=options.threshold, bandwidth=options.bandwidth),
        terms=[penalty, *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="jump_relu",
    summary="a learned threshold a feature, L0 penalty; target_l0 steers its weight",
    paper="arXiv 2407.14435",
    options=JumpReLUOptions,
    make=_make,
)
