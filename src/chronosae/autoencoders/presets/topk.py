"""TopK with AuxK (Gao et al. 2024, arXiv 2406.04093)."""

from chronosae.autoencoders.parts.activations import TopK
from chronosae.autoencoders.presets.base import Preset, TopKOptions
from chronosae.autoencoders.spec import Normalisation, Spec


def _make(options: TopKOptions, d_in: int, normalisation: Normalisation) -> Spec:
    return Spec(
        preset="topk",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=TopK(k=options.k),
        terms=[*options.auxk(d_in), *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="topk",
    summary="exactly k features a token; AuxK revives dead ones",
    paper="arXiv 2406.04093",
    options=TopKOptions,
    make=_make,
)
