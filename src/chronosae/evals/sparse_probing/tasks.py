"""One class against the rest: which rows a probe is fitted, chosen and tested on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows of a data set with the answer of each: does it belong to the class?"""

    rows: Int[Tensor, " n"]
    labels: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, kept: Bool[Tensor, " rows"]) -> "Part":
        """The rows that a mask over the whole data set keeps."""
        inside = kept[self.rows]
        return Part(self.rows[inside], self.labels[inside])


@dataclass(frozen=True)
class Task:
    """One class against the rest, half and half."""

    name: str
    train: Part
    fit: Part
    """The training rows without those of `validation`."""
    validation: Part
    test: Part


def make_tasks(
    classes: Sequence[str],
    train: Int[Tensor, " train_rows"],
    test: Int[Tensor, " test_rows"],
    held_out: Bool[Tensor, " train_rows"],
    generator: torch.Generator,
) -> list[Task]:
    """A task for each class. `train` and `test` hold each row's number in `classes`, `held_out` the validation rows."""
    found = []
    for c, name in enumerate(classes):
        chosen = one_against_the_rest(train, c, len(classes), generator)
        asked = one_against_the_rest(test, c, len(classes), generator)
        found.append(Task(name, chosen, chosen.where(~held_out), chosen.where(held_out), asked))
    return found


def one_against_the_rest(
    labels: Int[Tensor, " rows"], positive: int, n_classes: int, generator: torch.Generator
) -> Part:
    """All rows of one class, and as many of the others: evenly from each, at random. In random order.

    Where the others hold too few, the class is cut to as many.
    """
    inside = (labels == positive).nonzero().squeeze(1)
    share = math.ceil(len(inside) / (n_classes - 1))
    others = [_some((labels == c).nonzero().squeeze(1), share, generator) for c in range(n_classes) if c != positive]
    outside = _some(torch.cat(others), len(inside), generator)
    inside = _some(inside, len(outside), generator)
    rows = torch.cat([inside, outside])
    order = torch.randperm(len(rows), generator=generator)
    return Part(rows[order], (order < len(inside)))


def held_out_groups(groups: Int[Tensor, " rows"], share: float, generator: torch.Generator) -> Bool[Tensor, " rows"]:
    """Rows of a random `share` of the groups, at least one group: a group is in or out as a whole."""
    n_groups = int(groups.max()) + 1
    n = min(max(1, round(share * n_groups)), n_groups - 1)
    chosen = torch.randperm(n_groups, generator=generator)[:n]
    return torch.isin(groups, chosen)


def _some(rows: Int[Tensor, " rows"], n: int, generator: torch.Generator) -> Int[Tensor, " some"]:
    return rows[torch.randperm(len(rows), generator=generator)[:n]]
