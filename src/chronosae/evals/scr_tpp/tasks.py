"""Which texts each probe is fitted and judged on: one-vs-rest classes (TPP), crossed and biased labels (SCR)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.data import LabelledTexts

# One training text in so many judges the epochs of a probe.
HELD_OUT = 5
# Fewer texts than this of a class or combination aren't enough for a probe.
FEWEST = 10

FIRST, SECOND, BIASED = range(3)
"""Tasks of SCR: either label where both are crossed, and both at once where they go together."""


@dataclass(frozen=True)
class Tasks:
    """Binary tasks over one list of texts."""

    name: str
    """Of the data set."""
    names: tuple[str, ...]
    """Of the tasks."""
    texts: tuple[str, ...]
    positive: Bool[Tensor, "tasks rows"]
    weight: Float[Tensor, "tasks rows"]
    """Share of each text in a task's accuracy: half for the positive ones together; 0 where it isn't part of it."""
    strata: Int[Tensor, " rows"]
    """Texts of one kind: negatives are drawn evenly from these."""
    turn: Int[Tensor, " rows"]
    """Number of each text within its stratum, in random order."""
    groups: Int[Tensor, " rows"]
    """Texts of one group aren't independent of one another."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def contrast(self) -> Float[Tensor, "tasks rows"]:
        """Weights whose sum over rows is the mean of the positive ones minus the mean of the others."""
        return torch.where(self.positive, 2.0, -2.0) * self.weight

    def held_out(self) -> Bool[Tensor, " rows"]:
        """The texts that judge the epochs: one in `HELD_OUT` of each stratum, and all of their groups.

        Where a stratum has too few groups for that, texts of a group are parted.
        """
        first = torch.full((int(self.groups.max()) + 1,), len(self.groups)).scatter_reduce(
            0, self.groups, torch.arange(len(self.groups)), "amin"
        )
        held = _every_fifth(_number_within(self.strata[first]))[self.groups]
        strata = self.strata.unique().unsqueeze(1) == self.strata
        parted = (strata & held).any(1) & (strata & ~held).any(1)
        return held if parted.all() else _every_fifth(self.turn)

    def fit_size(self, rows: Bool[Tensor, " rows"]) -> int:
        """Most texts among `rows` of either side that every task can be fitted on."""
        among = rows & (self.weight > 0)
        return int(torch.stack([among & self.positive, among & ~self.positive]).sum(-1).min())

    def fit_rows(
        self, task: int, rows: Bool[Tensor, " rows"], n: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, " twice_n"], Bool[Tensor, " twice_n"]]:
        """Texts among `rows` to fit one task on: `n` positive ones and `n` others, evenly from all strata."""
        among = rows & (self.weight[task] > 0)
        positive = (among & self.positive[task]).nonzero().squeeze(1)
        others = (among & ~self.positive[task]).nonzero().squeeze(1)
        others = others[torch.randperm(len(others), generator=generator)]
        chosen = torch.cat([self._evenly(positive, n).sort().values, self._evenly(others, n)])
        return chosen, self.positive[task][chosen]

    def _evenly(self, rows: Int[Tensor, " some"], n: int) -> Int[Tensor, " n"]:
        """The first of each stratum, the second of each, and so on."""
        return rows[_number_within(self.strata[rows]).argsort(stable=True)][:n]


def one_vs_rest(data: LabelledTexts, classes: tuple[str, ...], size: int, generator: torch.Generator) -> Tasks:
    """One task a class: `size` / 2 positive texts, and all texts of the other classes, which weigh the same together.

    Raises:
        UserError: a class has too few texts.
    """
    by_class = [[i for i, label in enumerate(data.labels) if label == name] for name in classes]
    n = min(size // 2, *(len(rows) for rows in by_class))
    if len(classes) < 2 or n < FEWEST:
        raise UserError(f"{data.name}: TPP needs two classes or more of {FEWEST} texts or more; the rarest has {n}")
    rows = [row for found in by_class for row in _draw(found, n, generator)]
    strata = torch.arange(len(classes)).repeat_interleave(n)
    positive = strata == torch.arange(len(classes)).unsqueeze(1)
    weight = positive.double() * 0.5 / n + (~positive).double() * 0.5 / (n * (len(classes) - 1))
    return _tasks(data, rows, classes, positive, weight, strata)


def unfit_for_scr(data: LabelledTexts) -> str | None:
    """Why SCR can't use such data, in a phrase; None: it can."""
    if data.second is None:
        return "SCR needs two labels a text; in a .jsonl file the second is the field second_label"
    for what, labels in (("label", data.labels), ("second label", data.second)):
        if len(set(labels)) != 2:
            return f"SCR needs two values of the {what}, there are {len(set(labels))}"
    return None


def crossed_and_biased(data: LabelledTexts, positives: tuple[str, str], size: int, generator: torch.Generator) -> Tasks:
    """Three tasks over `size` texts each: `FIRST` and `SECOND` over all four combinations of the two labels in equal
    numbers, `BIASED` over the two in which both labels are positive or both negative.

    Raises:
        UserError: there is no second label, either label has other than two values, or a combination is too rare.
    """
    problem = unfit_for_scr(data)
    if problem is not None:
        raise UserError(f"{data.name}: {problem}")
    assert data.second is not None
    signs = [(a == positives[0], b == positives[1]) for a, b in zip(data.labels, data.second, strict=True)]
    found = [[i for i, sign in enumerate(signs) if sign == (a, b)] for a in (True, False) for b in (True, False)]
    both, first, second, neither = found
    m = min(size // 4, len(both) // 2, len(neither) // 2, len(first), len(second))
    if m < FEWEST:
        raise UserError(
            f"{data.name}: SCR needs {FEWEST} texts or more of each combination of the labels and twice as many of the"
            f" two that agree; there are {', '.join(str(len(rows)) for rows in found)}"
        )
    counts = (2 * m, m, m, 2 * m)
    rows = [row for some, n in zip(found, counts, strict=True) for row in _draw(some, n, generator)]
    strata = torch.arange(4).repeat_interleave(torch.tensor(counts))
    crossed, agree = _number_within(strata) < m, (strata == 0) | (strata == 3)
    positive = torch.stack([strata < 2, strata % 2 == 0, strata == 0])
    weight = torch.stack([crossed, crossed, agree]).double() / (4 * m)
    names = (" / ".join(sorted(set(data.labels))), " / ".join(sorted(set(data.second))), "biased")
    return _tasks(data, rows, names, positive, weight, strata)


def _tasks(
    data: LabelledTexts, rows: list[int], names: tuple[str, ...], positive: Tensor, weight: Tensor, strata: Tensor
) -> Tasks:
    groups = range(len(rows)) if data.groups is None else _numbered([data.groups[row] for row in rows])
    return Tasks(
        name=data.name,
        names=names,
        texts=tuple(data.texts[row] for row in rows),
        positive=positive,
        weight=weight,
        strata=strata,
        turn=_number_within(strata),
        groups=torch.tensor(list(groups)),
    )


def _draw(rows: list[int], n: int, generator: torch.Generator) -> list[int]:
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:n].tolist()]


def _numbered(names: list[str]) -> list[int]:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def _number_within(strata: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """How many earlier rows share each row's stratum."""
    number = torch.zeros_like(strata)
    for stratum in strata.unique():
        same = strata == stratum
        number[same] = torch.arange(int(same.sum()))
    return number


def _every_fifth(turn: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    return turn % HELD_OUT == HELD_OUT - 1
