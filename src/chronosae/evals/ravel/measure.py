"""Cause and isolation of every attribute of one set, for every autoencoder and its controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.evals.ravel.data import AttributeSet
from chronosae.evals.ravel.interchange import Interchange, of_dimensions, of_features
from chronosae.evals.ravel.mask import answers_right, learn_mask
from chronosae.evals.ravel.options import RavelOptions
from chronosae.evals.ravel.pairs import NAME, Pairs, make_pairs
from chronosae.evals.ravel.prompts import Prompts, codes_at_entities, read_prompts
from chronosae.evals.workbench import Workbench

MEDIATES = 0.5
"""The least share of answers that exchanging whole activations must move."""


@dataclass(frozen=True)
class Outcome:
    """One attribute: which test pairs came out as they should."""

    attribute: str
    cause: Bool[Tensor, " pairs"]
    isolation: Bool[Tensor, " others"]
    cause_group: Int[Tensor, " pairs"]
    """Number of the base's entity."""
    isolation_group: Int[Tensor, " others"]
    chosen: int
    """Features exchanged."""

    @property
    def cause_score(self) -> float:
        """Share of the pairs whose answer became the source's."""
        return float(self.cause.float().mean())

    @property
    def isolation_score(self) -> float:
        """Share of the other attributes' pairs whose answer stayed the base's."""
        return float(self.isolation.float().mean())


@dataclass(frozen=True)
class SetOutcome:
    """One set of entities."""

    data: str
    pairs: Pairs
    tokens: str
    """Hash of the prompts' tokens."""
    whole: list[Outcome]
    """The whole activations exchanged."""
    raw: list[Outcome]
    """A mask over residual dimensions."""
    saes: dict[str, list[Outcome] | None]
    """None where codes hold NaN or Inf."""

    @property
    def mediated(self) -> list[Outcome]:
        """The whole activations' outcomes of the attributes that are measured."""
        return [outcome for outcome in self.whole if outcome.attribute not in self.unmediated]

    @property
    def unmediated(self) -> tuple[str, ...]:
        """Attributes that the subject reads elsewhere: exchanging whole activations moves too few answers. Nothing
        else is measured of them."""
        return tuple(outcome.attribute for outcome in self.whole if outcome.cause_score < MEDIATES)


def measure(bench: Workbench, data: AttributeSet, saes: Mapping[str, Autoencoder], options: RavelOptions) -> SetOutcome:
    """Choose features on training pairs, exchange them in test pairs. No outcomes with fewer than two attributes."""
    prompts = read_prompts(bench, data, options)
    pairs = make_pairs(bench, data, prompts, options)
    if len(pairs.test) < 2:
        return SetOutcome(data.name, pairs, prompts.rows.sha256(), [], [], {name: [] for name in saes})
    acts, codes = codes_at_entities(bench, prompts, saes, f"{NAME} {data.name}")
    numbers = {entity: i for i, entity in enumerate(data.entities)}
    entity = torch.tensor([numbers[asked.entity] for asked in prompts.asked])
    raw = of_dimensions(prompts, acts)

    # The whole activation and the raw dimensions are measured beside the autoencoders.
    steps = count(1)

    def outcomes(interchange: Interchange, mask: Tensor | None) -> list[Outcome]:
        found = []
        for attribute in pairs.test:
            found.append(_outcome(bench, data.name, prompts, pairs, entity, interchange, attribute, mask, options))
            bench.progress(f"{NAME} {data.name}, attributes", next(steps), (len(saes) + 2) * len(pairs.test))
        return found

    whole = outcomes(raw, torch.ones(raw.width, dtype=torch.bool))
    # To keep what nothing here can move is no achievement: such attributes' pairs are neither chosen nor judged by.
    mediated = [outcome.attribute for outcome in whole if outcome.cause_score >= MEDIATES]
    pairs = pairs.of(mediated)
    if len(mediated) < 2:
        return SetOutcome(data.name, pairs, prompts.rows.sha256(), whole, [], {name: [] for name in saes})
    dimensions = outcomes(raw, None)
    found: dict[str, list[Outcome] | None] = {}
    for name, sae in saes.items():
        if codes[name].values.isfinite().all():
            own = of_features(sae, prompts, codes[name], keep_error=options.protocol == "chronosae")
            found[name] = outcomes(own, None)
        else:
            found[name] = None
    return SetOutcome(data.name, pairs, prompts.rows.sha256(), whole, dimensions, found)


def _outcome(
    bench: Workbench,
    data: str,
    prompts: Prompts,
    pairs: Pairs,
    entity: Tensor,
    interchange: Interchange,
    attribute: str,
    mask: Tensor | None,
    options: RavelOptions,
) -> Outcome:
    """One attribute; the mask is learned where none is given."""
    train, test = (
        (part[attribute], [pair for other, found in part.items() if other != attribute for pair in found])
        for part in (pairs.train, pairs.test)
    )
    if mask is None:
        # The same pairs in the same order for every autoencoder.
        generator = bench.generator(NAME, data, attribute, "mask")
        mask = learn_mask(bench, prompts, interchange, *train, options, generator)
    return Outcome(
        attribute,
        answers_right(bench, prompts, interchange, mask, test[0], 1),
        answers_right(bench, prompts, interchange, mask, test[1], 0),
        entity[torch.tensor([pair.base for pair in test[0]])],
        entity[torch.tensor([pair.base for pair in test[1]])],
        int(mask.sum()),
    )
