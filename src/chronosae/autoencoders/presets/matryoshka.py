"""Matryoshka BatchTopK (Bussmann et al. 2025, arXiv 2503.17547)."""

from typing import Annotated

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.activations import BatchTopK
from chronosae.autoencoders.parts.terms import NestedTerm
from chronosae.autoencoders.presets.base import Preset, TopKOptions
from chronosae.autoencoders.spec import Normalisation, Spec


class MatryoshkaOptions(TopKOptions):
    """Options of `matryoshka`."""

    split: list[Annotated[float, Field(gt=0)]] = Field(default=[1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2], min_length=2)
    """Shares of the dictionary, group by group; each prefix of groups must reconstruct alone. They sum to 1."""
    group_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """Weight of each prefix's error, the whole dictionary's last; equal when absent. Scaled to sum to 1."""

    @model_validator(mode="after")
    def _whole(self) -> "MatryoshkaOptions":
        check_split(self.split)
        if self.group_weights is not None and len(self.group_weights) != len(self.split):
            raise ValueError(f"group_weights: {len(self.split)} groups need as many, got {len(self.group_weights)}")
        if self.group_weights is not None and not sum(self.group_weights):
            raise ValueError("group_weights are all zero: nothing would be reconstructed")
        return self


def check_split(split: list[float]) -> None:
    """ValueError unless shares sum to 1."""
    if abs(sum(split) - 1) > 1e-6:
        raise ValueError(f"split must sum to 1, got {split}, which sums to {sum(split):.4g}")


def nested(split: list[float], weights: list[float] | None) -> tuple[NestedTerm, float]:
    """The term for all prefixes but the whole, and the whole's weight."""
    weights = weights or [1.0] * len(split)
    share = [weight / sum(weights) for weight in weights]
    prefixes = [sum(split[: i + 1]) for i in range(len(split) - 1)]
    return NestedTerm(prefixes=prefixes, weights=share[:-1]), share[-1]


def _make(options: MatryoshkaOptions, d_in: int, normalisation: Normalisation) -> Spec:
    term, whole = nested(options.split, options.group_weights)
    return Spec(
        preset="matryoshka",
        d_in=d_in,
        d_sae=options.d_sae,
        normalisation=normalisation,
        activation=BatchTopK(k=options.k),
        reconstruction_weight=whole,
        terms=[term, *options.auxk(d_in), *options.extra_terms],
        corruption=options.corruption,
        trackers=options.trackers,
    )


PRESET = Preset(
    name="matryoshka",
    summary="nested dictionaries: every prefix of feature groups reconstructs alone; BatchTopK",
    paper="arXiv 2503.17547",
    options=MatryoshkaOptions,
    make=_make,
)
