"""Accuracies and gains with intervals over groups, per task and over tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap


@dataclass(frozen=True)
class Score:
    """A mean over test items (over tasks: the mean of the tasks' means) and its 95 % interval."""

    value: float
    interval: Interval | None

    @property
    def above_zero(self) -> bool:
        """The whole interval lies above zero."""
        return self.interval is not None and self.interval.low > 0


def score(values: Sequence[np.ndarray], groups: Sequence[Tensor], seed: int) -> Score:
    """Mean over tasks of the mean over items; whole groups are resampled.

    Arguments:
        values: for each task a number for each test item: right or wrong, or a difference of such.
        groups: for each task the group of each test item.
        seed: of the resampling.
    """
    totals, sizes = [], []
    for numbers, group in zip(values, groups, strict=True):
        _, place = group.unique(return_inverse=True)
        size = torch.bincount(place).double()
        totals.append(torch.zeros_like(size).index_add(0, place, torch.from_numpy(numbers.astype(np.float64))))
        sizes.append(size)
    ends = np.cumsum([len(size) for size in sizes]).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))

    def mean_over_tasks(counts: Tensor) -> Tensor:
        means = [
            (counts[:, a:b] @ total) / (counts[:, a:b] @ size)
            for (a, b), total, size in zip(spans, totals, sizes, strict=True)
        ]
        return torch.stack(means).mean(0)

    n = ends[-1]
    value = float(mean_over_tasks(torch.ones(1, n, dtype=torch.float64)))
    return Score(value, bootstrap(mean_over_tasks, n, seed))
