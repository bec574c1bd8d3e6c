"""From right and wrong answers to the result of one autoencoder over all data sets: SAEBench's names, our flags."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.probes import RAW
from chronosae.evals.sparse_probing.data import NAME, ProbingSet, SparseProbingOptions, Task
from chronosae.evals.sparse_probing.measure import FULL, Measured, Scores, top
from chronosae.evals.workbench import Workbench

# One-sided p = 0.01.
Z = 2.326
# Features a class that the result file lists.
LISTED = 10

Counts = Float[Tensor, "resamples units"]
Table = list[dict[str, dict[str, float]]]
"""For each data set: metric -> class -> value."""


def report(options: SparseProbingOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """Metrics of autoencoder `name` under SAEBench's names: means over data sets of means over classes.

    A metric that the protocol lacks, or a k that wasn't asked for, is absent (SAEBench reads null); what was asked for
    and doesn't exist is None.
    """
    sets, raw, sae = measured.sets, measured.readers[RAW], measured.readers[name]
    names = [FULL, *(top(k) for k in sorted(options.ks))]
    tables = {"llm": _classes(raw, sets), "sae": _classes(sae, sets)}
    return EvalResult(
        metrics=_metrics(names, tables, options),
        eval_config=_eval_config(options, bench, sets),
        data_sha256=hashlib.sha256("".join(data.sha256 for data in sets).encode()).hexdigest(),
        details=_details(tables, sets),
        unstructured={f"{data.name}_results": _unstructured(tables, i) for i, data in enumerate(sets)},
        intervals=_intervals(names, sets, raw, sae, bench),
        resampled="test texts (groups)",
        flags=tuple(_flags(options, sets, raw, sae)),
        block={"probing": _block(options, sets, raw, sae)},
    )


def _classes(reader: Sequence[Scores], sets: Sequence[ProbingSet]) -> Table:
    found = []
    for scores, data in zip(reader, sets, strict=True):
        rates = {name: [float(right.double().mean()) for right in values] for name, values in scores.correct.items()}
        names = [task.name for task in data.tasks]
        by_task = (rates | scores.further).items()
        found.append({metric: dict(zip(names, values, strict=True)) for metric, values in by_task})
    return found


def _mean(values: Sequence[float]) -> float:
    """The mean over classes, or data sets: each counts the same."""
    return sum(values) / len(values)


def _averaged(table: Table) -> list[dict[str, float]]:
    """Metric -> mean over classes, for each data set."""
    return [{name: _mean(list(classes.values())) for name, classes in found.items()} for found in table]


def _metrics(
    names: Sequence[str], tables: dict[str, Table], options: SparseProbingOptions
) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for who, table in tables.items():
        means = _averaged(table)
        further = [name for name in means[0] if name not in names]
        asked = [n for n in names if not (n == FULL and who == "sae" and options.protocol == "sae_probes")]
        found[who] = {
            f"{who}_{n}": _mean([row[n] for row in means]) if all(n in row for row in means) else None
            for n in [*asked, *further]
        }
    pairs = [(n, found["sae"].get(f"sae_{n}"), found["llm"].get(f"llm_{n}")) for n in names]
    found["sae_minus_llm"] = {f"sae_minus_llm_{n}": a - b for n, a, b in pairs if a is not None and b is not None}
    return found


def _details(tables: dict[str, Table], sets: Sequence[ProbingSet]) -> tuple[dict[str, Any], ...]:
    """One row a data set, named as SAEBench names it."""
    rows = []
    for i, data in enumerate(sets):
        values = {f"{who}_{name}": v for who, table in tables.items() for name, v in _averaged(table)[i].items()}
        rows.append({"dataset_name": f"{data.name}_results", **values})
    return tuple(rows)


def _unstructured(tables: dict[str, Table], i: int) -> dict[str, dict[str, float]]:
    return {f"{who}_{name}": values for who, table in tables.items() for name, values in table[i].items()}


def _intervals(
    names: Sequence[str], sets: Sequence[ProbingSet], raw: Sequence[Scores], sae: Sequence[Scores], bench: Workbench
) -> dict[str, Interval]:
    seed = bench.generator(NAME, "bootstrap").initial_seed()
    resampling = _Resampling(tuple(data.test_groups for data in sets), tuple(data.tasks for data in sets), seed)
    found: dict[str, Interval | None] = {}
    for name in names:
        correct = {
            who: [scores.correct[name] for scores in reader]
            for who, reader in (("llm", raw), ("sae", sae))
            if all(name in scores.correct for scores in reader)
        }
        for who, values in correct.items():
            found[f"{who}_{name}"] = resampling.interval(values)
        if len(correct) == 2:
            found[f"sae_minus_llm_{name}"] = resampling.difference(correct["sae"], correct["llm"])
    return {name: interval for name, interval in found.items() if interval is not None}


@dataclass(frozen=True)
class _Resampling:
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

    def _accuracy(
        self, correct: Sequence[Sequence[Bool[Tensor, " n"]]]
    ) -> Callable[[Counts], Float[Tensor, " resamples"]]:
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


def _flags(
    options: SparseProbingOptions, sets: Sequence[ProbingSet], raw: Sequence[Scores], sae: Sequence[Scores]
) -> list[str]:
    flags = [flag for data in sets for flag in data.flags]
    if not all(scores.correct for scores in sae):
        flags.append("non_finite_codes")
    elif not any(scores.alive for scores in sae):
        flags.append("never_fires")
    for data, scores in zip(sets, raw, strict=True):
        unknown = _at_chance(scores, data)
        if unknown:
            flags.append(f"subject_does_not_know: {data.name}: {', '.join(unknown)}")
    for who, reader in (("llm", raw), ("sae", sae)):
        wanted = [k for k in options.ks if any(scores.correct and top(k) not in scores.correct for scores in reader)]
        if wanted:
            flags.append(f"fewer_features_than_k: {who}: {', '.join(map(str, wanted))}")
    return flags


def _at_chance(scores: Scores, data: ProbingSet) -> list[str]:
    """Classes that a probe on all raw channels doesn't tell better than a coin (p < 0.01)."""
    return [
        task.name
        for task, right in zip(data.tasks, scores.correct[FULL], strict=True)
        if float(right.double().mean()) <= 0.5 + Z * math.sqrt(0.25 / len(right))
    ]


def _block(
    options: SparseProbingOptions, sets: Sequence[ProbingSet], raw: Sequence[Scores], sae: Sequence[Scores]
) -> dict[str, Any]:
    """What SAEBench's file has no place for; features are listed best first."""
    found = []
    for i, data in enumerate(sets):
        scores = sae[i]
        chosen = [] if scores.features is None else [row[:LISTED].tolist() for row in scores.features]
        found.append(
            {
                "name": data.name,
                **data.facts,
                "features_not_zero": scores.alive,
                "fits_not_converged": {"llm": raw[i].not_converged, "sae": scores.not_converged},
                "test_rows": {task.name: len(task.test) for task in data.tasks},
                "features": dict(zip([task.name for task in data.tasks], chosen, strict=False)),
            }
        )
    return {"protocol": options.protocol, "pooling": options.pool, "k": sorted(options.ks), "data": found}


def _eval_config(options: SparseProbingOptions, bench: Workbench, sets: Sequence[ProbingSet]) -> dict[str, Any]:
    return {
        "random_seed": bench.seed,
        "dataset_names": [data.name for data in sets],
        "probe_train_set_size": options.rows["train"],
        "probe_test_set_size": options.rows["test"],
        "context_length": options.context,
        "llm_batch_size": None,
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "model_name": bench.subject.name,
        "k_values": sorted(options.ks),
        "lower_vram_usage": False,
    }
