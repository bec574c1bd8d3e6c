"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410)."""

from chronosae.autoencoders.parts.activations import BatchTopK
from chronosae.autoencoders.presets.base import Preset, TopKOptions
from chronosae.autoencoders.spec import Normalisation, Spec


def _make(options: TopKOptions, d_in: int, normalisation: Normalisation) -> Spec:
    return Spec(
        preset="batch_topk",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=BatchTopK(k=options.k),
        terms=[*options.auxk(d_in), *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="batch_topk",
    summary="k features a token on average over the batch; a learned threshold outside training",
    paper="arXiv 2412.06410",
    options=TopKOptions,
    make=_make,
)
