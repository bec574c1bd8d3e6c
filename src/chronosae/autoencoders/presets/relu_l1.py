"""ReLU with an L1 penalty: the classic baseline, in both of its usual forms."""

from typing import Annotated, Literal

from pydantic import Field

from chronosae.autoencoders.parts.activations import ReLU
from chronosae.autoencoders.parts.terms import L1Term
from chronosae.autoencoders.presets.base import Options, Preset
from chronosae.autoencoders.spec import Normalisation, Spec


class ReluL1Options(Options):
    """Options of `relu_l1`."""

    form: Literal["unit_norm", "decoder_weighted"] = "unit_norm"
    """`unit_norm`: decoder rows at norm 1, projected gradients (Bricken et al. 2023); `decoder_weighted`: free decoder,
    each feature's L1 weighted by its decoder norm (Conerly et al. 2024)."""
    l1_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the penalty, in units where mean ||x|| is sqrt(d_in); the start value when `target_l0` is set."""
    l1_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer the weight until this many features are active a token; landing more than 5 % off is flagged."""
    resample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between re-initialisations of dead features (Bricken et al. 2023); 0 is never."""


def _make(options: ReluL1Options, d_in: int, normalisation: Normalisation) -> Spec:
    if options.target_l0 is not None and options.target_l0 > options.d_sae:
        raise ValueError(f"target_l0 ({options.target_l0}) must be at most d_sae ({options.d_sae})")
    weighted = options.form == "decoder_weighted"
    return Spec(
        preset="relu_l1",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=ReLU(),
        decoder="free" if weighted else "unit_norm",
        terms=[
            L1Term(
                weight=options.l1_weight,
                decoder_weighted=weighted,
                warmup_fraction=options.l1_warmup_fraction,
                target_l0=options.target_l0,
            ),
            *options.extra_terms,
        ],
        corruption=options.corruption,
        trackers=options.trackers,
        resample_every=options.resample_every,
    )


PRESET = Preset(
    name="relu_l1",
    summary="ReLU codes, L1 penalty; target_l0 steers the penalty's weight",
    paper="Bricken et al. 2023; Conerly et al. 2024",
    options=ReluL1Options,
    make=_make,
)
