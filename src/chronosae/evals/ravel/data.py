"""What `ravel` is asked to do and what it reads: options, entities with attributes, prompts as tokens, and pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.data.providers import Providers, jsonl_rows, text_field
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

NAME = "ravel"
KEY = f"evals.{NAME}.data"
ENTITY = "{entity}"
OPTIONS = 4
"""Values among which an answer is ranked: the base's, the source's and others."""
FEWEST = 8
"""Pairs of an attribute that training and test must each have."""


class RavelOptions(EvalOptions):
    """`evals.ravel` in a configuration."""

    data: tuple[str, ...] = Field(default=("world/geography", "world/history"), min_length=1)
    """Sets of entities with attributes: registered names, or local .jsonl files."""
    protocol: Literal["chronosae", "saebench"] = "chronosae"
    """What replaces the activation: `chronosae` keeps what the autoencoder doesn't reconstruct, `saebench` drops it."""
    tokens: Literal["entity", "last"] | None = None
    """Where activations are exchanged: at all tokens of the entity's name, or at the last; absent, `entity` for the
    protocol `chronosae` and `last` for `saebench`."""
    templates: PositiveInt = 1
    """Prompts an attribute, the first of each."""
    train_share: float = Field(default=0.6, gt=0, lt=1)
    """Share of the entities on which features are chosen; the others are for the score."""
    train_pairs: int = Field(default=192, ge=2)
    """Pairs of entities an attribute for choosing features."""
    test_pairs: int = Field(default=48, ge=8)
    """Pairs of entities an attribute for the score."""
    steps: PositiveInt = 60
    """Steps of Adam for one attribute's mask."""
    batch: int = Field(default=32, ge=2)
    """Pairs a step, half of them to change the attribute, half to keep others."""
    lr: PositiveFloat = 0.1
    """Learning rate of the mask."""
    end_temperature: float = Field(default=0.01, gt=0, le=1)
    """The mask is sigmoid(m / T); T falls from 1 to this, by the same factor at each step."""
    context: int = Field(default=128, ge=8)
    """Longest prompt in tokens; longer ones are left out."""

    @model_validator(mode="after")
    def _as_the_protocol_is(self) -> "RavelOptions":
        if self.protocol == "saebench" and self.tokens == "entity":
            raise ValueError("protocol saebench exchanges the last token; for entity take protocol chronosae")
        return self

    @property
    def last_only(self) -> bool:
        """Only the entity's last token is exchanged."""
        return (self.tokens or ("last" if self.protocol == "saebench" else "entity")) == "last"


@dataclass(frozen=True)
class AttributeSet:
    """Entities of one kind. The answer to a prompt is a space and the value."""

    name: str
    prompts: dict[str, tuple[str, ...]]
    """Attribute -> prompts that hold `{entity}` once and end right before the answer."""
    values: dict[str, dict[str, str]]
    """Attribute -> entity -> value."""

    @property
    def entities(self) -> tuple[str, ...]:
        """All entities, as they first come."""
        return tuple(dict.fromkeys(entity for values in self.values.values() for entity in values))

    def options(self, attribute: str) -> tuple[str, ...]:
        """All values of an attribute, in alphabetical order."""
        return tuple(sorted(set(self.values[attribute].values())))


def read_attribute_file(path: Path, split: str) -> AttributeSet:
    """A .jsonl of two kinds of rows: `attribute` and `prompt`, or `attribute`, `entity` and `value`.

    `split` isn't used: entities are divided by the evaluation.

    Raises:
        UserError: a row is damaged (it is named), or fewer than two attributes have both prompts and values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .jsonl of attributes")
    prompts: dict[str, list[str]] = {}
    values: dict[str, dict[str, str]] = {}
    for where, row in jsonl_rows(path):
        attribute = text_field(row, "attribute", where)
        if "prompt" in row:
            prompts.setdefault(attribute, []).append(_prompt(row, where))
        else:
            values.setdefault(attribute, {})[text_field(row, "entity", where)] = text_field(row, "value", where)
    both = [attribute for attribute in prompts if len(set(values.get(attribute, {}).values())) > 1]
    if len(both) < 2:
        raise UserError(f"{path}: at least two attributes need both prompts and two values; {len(both)} have")
    return AttributeSet(path.stem, {a: tuple(prompts[a]) for a in both}, {a: values[a] for a in both})


def _prompt(row: dict[str, Any], where: str) -> str:
    prompt = text_field(row, "prompt", where)
    if prompt.count(ENTITY) != 1:
        raise UserError(f"{where}: a prompt must hold {ENTITY} exactly once")
    return prompt


ATTRIBUTES: Providers[AttributeSet] = Providers(
    "attributes", read_attribute_file, ".jsonl with attribute and prompt, or attribute, entity and value"
)


@dataclass(frozen=True)
class Prompt:
    """Which question a row of tokens asks."""

    entity: str
    attribute: str
    template: int


@dataclass(frozen=True)
class Prompts:
    """Every prompt of a set of entities."""

    asked: tuple[Prompt, ...]
    rows: TokenRows
    places: Int[Tensor, "prompts span"]
    """The entity's tokens, the last one last; where a name is shorter than the longest, words before it. -1: no token
    that autoencoders see."""
    length: Int[Tensor, " prompts"]
    """Tokens of the entity's name."""
    answers: dict[str, tuple[int, ...]]
    """Tokens of each value, the space before it included."""

    def align(self, a: int, b: int) -> bool:
        """Both have a token for each token of the longer name."""
        longer = int(torch.maximum(self.length[a], self.length[b]))
        return bool((self.places[[a, b], -longer:] >= 0).all())

    def exchanged(self, base: Int[Tensor, " n"], source: Int[Tensor, " n"]) -> Bool[Tensor, "n span"]:
        """The last tokens up to the entity's last, as many as the longer of the two names has.

        Names are aligned at their ends. The shorter one stands for the longer with the words of the prompt before it,
        which both prompts share.
        """
        longer = torch.maximum(self.length[base], self.length[source])
        return torch.arange(self.places.shape[1] - 1, -1, -1) < longer.unsqueeze(1)


def read_prompts(bench: Workbench, data: AttributeSet, options: RavelOptions) -> Prompts:
    """All prompts that fit into the context and whose entity ends at a token that autoencoders see."""
    asked, texts, names = [], [], []
    for attribute, prompts in data.prompts.items():
        for number, prompt in enumerate(prompts[: options.templates]):
            for entity in data.values[attribute]:
                asked.append(Prompt(entity, attribute, number))
                texts.append(prompt.replace(ENTITY, entity))
                start = prompt.index(ENTITY)
                names.append((start, start + len(entity)))
    rows = bench.read(texts, options.context)
    spans = [rows.span(i, *name) for i, name in enumerate(names)]
    last = torch.tensor([span[-1] if span else 0 for span in spans])
    fits = torch.tensor([bool(span) for span in spans]) & ~rows.truncated & rows.mask[torch.arange(len(last)), last]
    kept = fits.nonzero().squeeze(1)
    length = torch.tensor([1 if options.last_only else len(span) for span in spans])[kept]
    values = sorted({value for by_entity in data.values.values() for value in by_entity.values()})
    ids = bench.subject.tokenizer([f" {value}" for value in values], add_special_tokens=False)["input_ids"]
    return Prompts(
        tuple(asked[i] for i in kept.tolist()),
        rows.rows(kept),
        _places(rows.mask[kept], last[kept], int(length.max()) if len(length) else 1),
        length,
        {value: tuple(tokens) for value, tokens in zip(values, ids, strict=True)},
    )


def _places(seen: Bool[Tensor, "prompts pos"], last: Int[Tensor, " prompts"], span: int) -> Tensor:
    places = last.unsqueeze(1) - torch.arange(span - 1, -1, -1)
    visible = (places >= 0) & seen.gather(1, places.clamp(min=0))
    return torch.where(visible, places, -1)


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


def draw_pairs(
    bench: Workbench, data: AttributeSet, prompts: Prompts, known: Sequence[bool], options: RavelOptions
) -> Pairs:
    """Pairs of entities within the training part and within the test part, of prompts that are known."""
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
    short = tuple(a for a in data.prompts if min(len(found[part][a]) for part in parts) < FEWEST)
    enough = [a for a in data.prompts if a not in short]
    return Pairs(found["train"], found["test"], short, shares).of(enough)


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
