"""TopK with AuxK (Gao et al. 2024, arXiv 2406.04093)."""

from typing import Annotated

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.activations import TopK
from chronosae.autoencoders.parts.terms import AuxKTerm
from chronosae.autoencoders.presets.base import Options, Positive, Preset
from chronosae.autoencoders.spec import Normalisation, Spec


class TopKOptions(Options):
    """Options of `topk`."""

    k: Positive = 32
    """Features active at each token."""
    aux_weight: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of AuxK, which revives dead features; 0 switches it off."""
    k_aux: Positive | None = None
    """Dead features that take part in AuxK; d_in / 2 when absent."""

    @model_validator(mode="after")
    def _k_fits(self) -> "TopKOptions":
        if self.k > self.d_sae:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({self.d_sae})")
        return self


def _make(options: TopKOptions, d_in: int, normalisation: Normalisation) -> Spec:
    k_aux = options.k_aux or max(1, d_in // 2)
    terms = [AuxKTerm(weight=options.aux_weight, k_aux=min(k_aux, options.d_sae))] if options.aux_weight else []
    return Spec(
        preset="topk",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=TopK(k=options.k),
        terms=[*terms],
    )


PRESET = Preset(
    name="topk",
    summary="exactly k features a token; AuxK revives dead ones",
    paper="arXiv 2406.04093",
    options=TopKOptions,
    make=_make,
)
