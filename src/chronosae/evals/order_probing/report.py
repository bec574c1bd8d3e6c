"""From right and wrong items to the result of one autoencoder: accuracies and gains, per task and over tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.order_probing.data import NAME, OrderProbingOptions
from chronosae.evals.order_probing.measure import CONTROLS, FULL, SO_FAR, Measured, Right, TaskOutcome
from chronosae.evals.workbench import Workbench

Flat = dict[str, float | None]


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

    Args:
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


class _Writer:
    """Collects metrics by category with their intervals."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.metrics: dict[str, Flat] = {}
        self.intervals: dict[str, Interval] = {}

    def put(self, category: str, metric: str, outcomes: Sequence[TaskOutcome], of: Callable[[TaskOutcome], Any]) -> Any:
        """One metric over some tasks: `of` gives a task's numbers, one a test item; None where there is no task."""
        found: Score | None = None
        if outcomes:
            found = score([of(outcome) for outcome in outcomes], [o.groups for o in outcomes], self.seed)
            if found.interval is not None:
                self.intervals[metric] = found.interval
        self.metrics.setdefault(category, {})[metric] = None if found is None else found.value
        return found


def report(options: OrderProbingOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """The result of autoencoder `name`."""
    outcomes = measured.outcomes
    seed = int(torch.randint(2**31, (1,), generator=bench.generator(NAME, "bootstrap")))
    kinds = (FULL, *(f"top_{k}" for k in options.k))
    usable = [outcome for outcome in outcomes if outcome.saes[name] is not None]
    writer = _Writer(seed)
    _write(writer, name, usable, kinds, "")
    details = []
    for outcome in outcomes:
        some = [outcome] if outcome in usable else []
        beats = _write(writer, name, some, kinds, f"{outcome.task.name}_")
        details.append(_row(outcome, writer.metrics, beats))
    return EvalResult(
        metrics=writer.metrics,
        eval_config=options.model_dump(mode="json"),
        data_sha256=measured.sha256,
        details=tuple(details),
        intervals=writer.intervals,
        resampled="groups of items (documents, minimal pairs)",
        flags=_flags(name, outcomes),
    )


def _write(
    writer: _Writer, name: str, outcomes: Sequence[TaskOutcome], kinds: Sequence[str], prefix: str
) -> dict[str, Any]:
    """Accuracies and gains of some tasks together. With a prefix all are in one category, that of the task."""
    task = prefix.removesuffix("_")
    for kind in kinds:
        middle = "" if kind == FULL else f"{kind}_"
        writer.put(task or "llm", f"{prefix}llm_{middle}test_accuracy", outcomes, lambda o, k=kind: o.raw[k])
        writer.put(task or "sae", f"{prefix}sae_{middle}test_accuracy", outcomes, lambda o, k=kind: _sae(o, name)[k])
    for control in (*CONTROLS, SO_FAR):
        metric = f"{prefix}{control}_test_accuracy"
        writer.put(task or "controls", metric, outcomes, lambda o, c=control: _control(o, name, c))
    gains: dict[str, Any] = {}
    for kind in kinds:
        middle = "" if kind == FULL else f"_{kind}"
        for against, other in (("llm", lambda o, k=kind: o.raw[k]), ("controls", lambda o: _best_control(o, name))):
            gains[f"{against}{middle}"] = writer.put(
                task or "gains",
                f"{prefix}sae{middle}_gain_over_{against}",
                outcomes,
                lambda o, k=kind, f=other: _sae(o, name)[k].astype(float) - f(o),
            )
    return {f"beats_{key}": found is not None and found.above_zero for key, found in gains.items()}


def _sae(outcome: TaskOutcome, name: str) -> Right:
    found = outcome.saes[name]
    assert found is not None
    return found


def _control(outcome: TaskOutcome, name: str, control: str) -> np.ndarray:
    return _sae(outcome, name)["shuffled"] if control == "shuffled" else outcome.controls[control]


def _best_control(outcome: TaskOutcome, name: str) -> np.ndarray:
    """The control with the highest accuracy in this task: the one that a reader would hold against the result."""
    return max((_control(outcome, name, control) for control in CONTROLS), key=lambda right: right.mean())


def _row(outcome: TaskOutcome, metrics: dict[str, Flat], beats: dict[str, Any]) -> dict[str, Any]:
    task = outcome.task
    values = {metric.removeprefix(f"{task.name}_"): value for metric, value in metrics[task.name].items()}
    sizes = {"train_items": len(task.train), "test_items": len(task.test), "left_out_items": task.left_out}
    return {"task": task.name, **sizes, "test_groups": len(task.test.group.unique()), **values, **beats}


def _flags(name: str, outcomes: Sequence[TaskOutcome]) -> tuple[str, ...]:
    def which(test: Callable[[TaskOutcome], bool]) -> str:
        return ", ".join(outcome.task.name for outcome in outcomes if test(outcome))

    found = {
        "too_few_items": which(lambda o: not o.raw),
        "non_finite_codes": which(lambda o: bool(o.raw) and o.saes[name] is None),
        "no_feature_fires": which(lambda o: name in o.silent),
        "raw_at_chance": which(lambda o: bool(o.raw) and not _above_chance(o)),
        "control_solves_it": which(_controls_solve),
    }
    return tuple(f"{flag}: {tasks}" for flag, tasks in found.items() if tasks)


def _above_chance(outcome: TaskOutcome) -> bool:
    return score([outcome.raw[FULL] - 0.5], [outcome.groups], 0).above_zero


def _controls_solve(outcome: TaskOutcome) -> bool:
    """The token, its place or the bag is right nine times in ten: the task says nothing about order."""
    return any(outcome.controls[name].mean() >= 0.9 for name in CONTROLS if name in outcome.controls)
