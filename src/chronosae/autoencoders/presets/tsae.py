"""T-SAE: Matryoshka of two groups, the first contrasted over time (Bhalla et al. 2025, arXiv 2511.05541)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.activations import BatchTopK
from chronosae.autoencoders.parts.terms import ContrastiveTerm
from chronosae.autoencoders.presets.base import Preset, TopKOptions
from chronosae.autoencoders.presets.matryoshka import check_split, nested
from chronosae.autoencoders.spec import Normalisation, Spec


class TSAEOptions(TopKOptions):
    """Options of `tsae`."""

    form: Literal["release", "paper"] = "release"
    """`release`: raw dot products, group weights 0.2 and 0.8 (the published code); `paper`: cosine over a temperature,
    both groups' errors at weight 1."""
    split: list[Annotated[float, Field(gt=0)]] = Field(default=[0.2, 0.8], min_length=2, max_length=2)
    """Shares of high-level and low-level features; they sum to 1."""
    contrastive_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the contrast (alpha)."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the `paper` form."""
    pair: Literal["previous", "random"] = "previous"
    """The earlier token: the one before, or any earlier one of the document."""

    @model_validator(mode="after")
    def _whole(self) -> "TSAEOptions":
        check_split(self.split)
        return self


def _make(options: TSAEOptions, d_in: int, normalisation: Normalisation) -> Spec:
    term, whole = nested(options.split, [0.2, 0.8])
    if options.form == "paper":
        term, whole = term.model_copy(update={"weights": [1.0]}), 1.0
    contrast = ContrastiveTerm(
        weight=options.contrastive_weight or 1.0,
        form=options.form,
        temperature=options.temperature,
        share=options.split[0],
        pair=options.pair,
    )
    return Spec(
        preset="tsae",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=BatchTopK(k=options.k),
        reconstruction_weight=whole,
        terms=[
            term,
            *([contrast] if options.contrastive_weight else []),
            *options.auxk(d_in),
            *options.extra_terms,
        ],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="tsae",
    summary="two nested groups, the high-level one contrasted between neighbouring tokens",
    paper="arXiv 2511.05541",
    options=TSAEOptions,
    make=_make,
)
