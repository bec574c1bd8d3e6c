"""Which facts the subject knows, and pairs of entities that differ in an attribute it knows of both."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chronosae.evals.ravel.data import AttributeSet
from chronosae.evals.ravel.options import RavelOptions
from chronosae.evals.ravel.prompts import Prompts, log_likelihood
from chronosae.evals.workbench import Workbench

NAME = "ravel"
OPTIONS = 4
"""Values among which an answer is ranked: the base's, the source's and others."""
FEWEST = 8
"""Pairs of an attribute that training and test must each have."""


@dataclass(frozen=True)
class Pair:
    """Base and source: the same question about two entities, both answered right, the answers different.

    Both have as many tokens that autoencoders see, up to the name's last, as the longer of the two names.
    """

    base: int
    """Number of the base's prompt."""
    source: int
    """Number of the source's prompt."""
    options: tuple[str, ...]
    """The base's value, the source's value, then others."""


@dataclass(frozen=True)
class Pairs:
    """Pairs by attribute; an attribute that the subject doesn't know well enough has none."""

    train: dict[str, list[Pair]]
    test: dict[str, list[Pair]]
    unknown: tuple[str, ...]
    """Attributes with too few pairs."""
    known_share: dict[str, float]
    """Attribute -> share of its prompts that the subject answers right."""

    def of(self, attributes: Sequence[str]) -> "Pairs":
        """Those of some attributes."""
        train, test = ({a: part[a] for a in attributes} for part in (self.train, self.test))
        return Pairs(train, test, self.unknown, self.known_share)


@torch.no_grad()
def known_prompts(bench: Workbench, data: AttributeSet, prompts: Prompts) -> list[bool]:
    """Whether the right value is the likeliest of all values of its attribute, for each prompt."""
    options = [data.options(asked.attribute) for asked in prompts.asked]
    which = torch.tensor([i for i, values in enumerate(options) for _ in values], dtype=torch.long)
    scores = log_likelihood(bench, prompts, which, [value for values in options for value in values])
    best = [values[int(part.argmax())] for values, part in zip(options, _split(scores, options), strict=True)]
    return [
        value == data.values[asked.attribute][asked.entity] for value, asked in zip(best, prompts.asked, strict=True)
    ]


def _split(scores: Tensor, options: Sequence[tuple[str, ...]]) -> tuple[Tensor, ...]:
    return scores.split([len(values) for values in options])


def make_pairs(bench: Workbench, data: AttributeSet, prompts: Prompts, options: RavelOptions) -> Pairs:
    """Pairs of entities within the training part and within the test part."""
    bench.progress(f"{NAME} {data.name}, what the subject knows", 0, len(prompts.asked))
    known = known_prompts(bench, data, prompts)
    entities = data.entities
    order = torch.randperm(len(entities), generator=bench.generator(NAME, data.name, "entities")).tolist()
    cut = round(options.train_share * len(entities))
    parts = {"train": {entities[i] for i in order[:cut]}, "test": {entities[i] for i in order[cut:]}}
    counts = {"train": options.train_pairs, "test": options.test_pairs}
    found: dict[str, dict[str, list[Pair]]] = {"train": {}, "test": {}}
    shares = {}
    for attribute in data.prompts:
        numbers = [i for i, asked in enumerate(prompts.asked) if asked.attribute == attribute]
        shares[attribute] = sum(known[i] for i in numbers) / max(1, len(numbers))
        for part, names in parts.items():
            usable = [i for i in numbers if known[i] and prompts.asked[i].entity in names]
            generator = bench.generator(NAME, data.name, attribute, part)
            found[part][attribute] = _draw(data, prompts, attribute, usable, counts[part], generator)
    short = [a for a in data.prompts if min(len(found[part][a]) for part in parts) < FEWEST]
    kept = {part: {a: pairs for a, pairs in found[part].items() if a not in short} for part in parts}
    return Pairs(kept["train"], kept["test"], tuple(short), shares)


def _draw(
    data: AttributeSet, prompts: Prompts, attribute: str, usable: list[int], n: int, generator: torch.Generator
) -> list[Pair]:
    values = data.values[attribute]
    value = {i: values[prompts.asked[i].entity] for i in usable}
    possible = [
        (b, s)
        for b in usable
        for s in usable
        if prompts.asked[b].template == prompts.asked[s].template and value[b] != value[s] and prompts.align(b, s)
    ]
    pairs = []
    for i in torch.randperm(len(possible), generator=generator)[:n].tolist():
        base, source = possible[i]
        others = [option for option in data.options(attribute) if option not in (value[base], value[source])]
        mixed = torch.randperm(len(others), generator=generator)[: OPTIONS - 2].tolist()
        pairs.append(Pair(base, source, (value[base], value[source], *(others[j] for j in mixed))))
    return pairs
