"""From the outcomes of all tasks to the result of one autoencoder."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chronosae.evals.bootstrap import Interval
from chronosae.evals.order_probing.measure import CONTROLS, FULL, SO_FAR, Right, TaskOutcome
from chronosae.evals.order_probing.options import OrderProbingOptions
from chronosae.evals.order_probing.score import Score, score
from chronosae.evals.result import EvalResult

Flat = dict[str, float | None]


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


def report(
    name: str, outcomes: Sequence[TaskOutcome], options: OrderProbingOptions, seed: int, resources: str
) -> EvalResult:
    """The result of autoencoder `name`; `seed` is of the resampling, `resources` the hash of the data."""
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
        data_sha256=resources,
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


def data_hash(outcomes: Sequence[TaskOutcome]) -> str:
    """Hash of all tasks' tokens, places and labels."""
    digest = hashlib.sha256()
    for outcome in outcomes:
        for items in (outcome.task.train, outcome.task.test):
            digest.update(f"{outcome.task.name} {items.rows.sha256()}".encode())
            for part in (items.row, items.pos, items.label, items.group):
                digest.update(part.numpy().tobytes())
    return digest.hexdigest()
