"""From right and wrong answers to metrics, their intervals and SAEBench's rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.sparse_probing.probing import Scores
from chronosae.evals.sparse_probing.tasks import Task

Counts = Float[Tensor, "resamples units"]
Statistic = Callable[[Counts], Float[Tensor, " resamples"]]


def class_values(scores: Scores, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """Metric -> class -> value."""
    rates = {name: [float(right.double().mean()) for right in values] for name, values in scores.correct.items()}
    return {
        name: dict(zip((task.name for task in tasks), values, strict=True))
        for name, values in (rates | scores.further).items()
    }


def mean(values: Sequence[float]) -> float:
    """The mean over classes, or data sets: each counts the same."""
    return sum(values) / len(values)


@dataclass(frozen=True)
class Resampling:
    """Test texts of all data sets as units that are drawn together (groups), and what a draw makes of accuracies."""

    units: tuple[Int[Tensor, " test_rows"], ...]
    """For each data set, the unit of each test row."""
    tasks: tuple[Sequence[Task], ...]
    seed: int

    @property
    def n_units(self) -> int:
        """Units in all."""
        return sum(int(units.max()) + 1 for units in self.units)

    def interval(self, correct: Sequence[Sequence[Bool[Tensor, " n"]]]) -> Interval | None:
        """Of the mean over data sets of the mean over classes of the accuracy; `correct[data set][task]`."""
        return bootstrap(self._accuracy(correct), self.n_units, self.seed)

    def difference(
        self, first: Sequence[Sequence[Bool[Tensor, " n"]]], second: Sequence[Sequence[Bool[Tensor, " n"]]]
    ) -> Interval | None:
        """Of the first accuracy minus the second, both on the same texts in each resample."""
        a, b = self._accuracy(first), self._accuracy(second)
        return bootstrap(lambda counts: a(counts) - b(counts), self.n_units, self.seed)

    def _accuracy(self, correct: Sequence[Sequence[Bool[Tensor, " n"]]]) -> Statistic:
        tables = [
            (_per_unit(units, tasks, right), _per_unit(units, tasks, [torch.ones_like(r) for r in right]))
            for units, tasks, right in zip(self.units, self.tasks, correct, strict=True)
        ]

        def statistic(counts: Counts) -> Float[Tensor, " resamples"]:
            parts = counts.split([len(right) for right, _ in tables], dim=1)
            found = [((c @ right) / (c @ asked)).mean(1) for c, (right, asked) in zip(parts, tables, strict=True)]
            return torch.stack(found).mean(0)

        return statistic


def _per_unit(
    units: Int[Tensor, " test_rows"], tasks: Sequence[Task], values: Sequence[Bool[Tensor, " n"]]
) -> Float[Tensor, "units tasks"]:
    """How many of each unit's rows are True, for each task."""
    found = torch.zeros(int(units.max()) + 1, len(tasks), dtype=torch.float64)
    for t, (task, value) in enumerate(zip(tasks, values, strict=True)):
        found[:, t].index_add_(0, units[task.test.rows], value.double())
    return found


def averaged(by_set: Sequence[Mapping[str, Mapping[str, float]]]) -> list[dict[str, float]]:
    """Metric -> mean over classes, for each data set."""
    return [{name: mean(list(classes.values())) for name, classes in found.items()} for found in by_set]
