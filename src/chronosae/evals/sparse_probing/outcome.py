"""The result of one autoencoder over all data sets."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chronosae.evals.bootstrap import Interval
from chronosae.evals.result import EvalResult
from chronosae.evals.sparse_probing.options import SparseProbingOptions
from chronosae.evals.sparse_probing.probing import FULL, Scores, top
from chronosae.evals.sparse_probing.reading import NAME, ProbingSet
from chronosae.evals.sparse_probing.summary import Resampling, averaged, class_values, mean
from chronosae.evals.workbench import Workbench

# One-sided p = 0.01.
Z = 2.326
# Features a class that the result file lists.
LISTED = 10


@dataclass
class Reader:
    """Who reads the texts: the raw activations, or an autoencoder. One entry a data set."""

    scores: list[Scores] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    """Features that aren't 0 on every training text."""


def result_of(
    name: str,
    options: SparseProbingOptions,
    bench: Workbench,
    sets: Sequence[ProbingSet],
    raw: Reader,
    sae: Reader,
) -> EvalResult:
    """Metrics under SAEBench's names: means over data sets of means over classes.

    A metric that the protocol lacks, or a k that wasn't asked for, is absent (SAEBench reads null); what was asked for
    and doesn't exist is None.
    """
    names = [FULL, *(top(k) for k in sorted(options.ks))]
    tables = {"llm": _classes(raw, sets), "sae": _classes(sae, sets)}
    metrics, details = _metrics(names, tables, options), _details(tables, sets)
    return EvalResult(
        metrics=metrics,
        eval_config=_eval_config(options, bench, sets),
        data_sha256=hashlib.sha256("".join(data.sha256 for data in sets).encode()).hexdigest(),
        details=details,
        unstructured={f"{data.name}_results": _unstructured(tables, i) for i, data in enumerate(sets)},
        intervals=_intervals(names, sets, raw, sae, bench),
        resampled="test texts (groups)",
        flags=tuple(_flags(options, sets, raw, sae)),
        block={"probing": _block(options, sets, raw, sae)},
    )


Table = list[dict[str, dict[str, float]]]
"""For each data set: metric -> class -> value."""


def _classes(reader: Reader, sets: Sequence[ProbingSet]) -> Table:
    return [class_values(scores, data.tasks) for scores, data in zip(reader.scores, sets, strict=True)]


def _metrics(
    names: Sequence[str], tables: dict[str, Table], options: SparseProbingOptions
) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for who, table in tables.items():
        means = averaged(table)
        further = [name for name in means[0] if name not in names]
        asked = [n for n in names if not (n == FULL and who == "sae" and options.protocol == "sae_probes")]
        found[who] = {
            f"{who}_{n}": mean([row[n] for row in means]) if all(n in row for row in means) else None
            for n in [*asked, *further]
        }
    pairs = [(n, found["sae"].get(f"sae_{n}"), found["llm"].get(f"llm_{n}")) for n in names]
    found["sae_minus_llm"] = {f"sae_minus_llm_{n}": a - b for n, a, b in pairs if a is not None and b is not None}
    return found


def _details(tables: dict[str, Table], sets: Sequence[ProbingSet]) -> tuple[dict[str, Any], ...]:
    """One row a data set, named as SAEBench names it."""
    rows = []
    for i, data in enumerate(sets):
        values = {f"{who}_{name}": v for who, table in tables.items() for name, v in averaged(table)[i].items()}
        rows.append({"dataset_name": f"{data.name}_results", **values})
    return tuple(rows)


def _unstructured(tables: dict[str, Table], i: int) -> dict[str, dict[str, float]]:
    return {f"{who}_{name}": values for who, table in tables.items() for name, values in table[i].items()}


def _intervals(
    names: Sequence[str], sets: Sequence[ProbingSet], raw: Reader, sae: Reader, bench: Workbench
) -> dict[str, Interval]:
    seed = bench.generator(NAME, "bootstrap").initial_seed()
    resampling = Resampling(tuple(data.test_groups for data in sets), tuple(data.tasks for data in sets), seed)
    found: dict[str, Interval | None] = {}
    for name in names:
        correct = {
            who: [scores.correct[name] for scores in reader.scores]
            for who, reader in (("llm", raw), ("sae", sae))
            if all(name in scores.correct for scores in reader.scores)
        }
        for who, values in correct.items():
            found[f"{who}_{name}"] = resampling.interval(values)
        if len(correct) == 2:
            found[f"sae_minus_llm_{name}"] = resampling.difference(correct["sae"], correct["llm"])
    return {name: interval for name, interval in found.items() if interval is not None}


def _flags(options: SparseProbingOptions, sets: Sequence[ProbingSet], raw: Reader, sae: Reader) -> list[str]:
    flags = [flag for data in sets for flag in data.flags]
    if not all(scores.correct for scores in sae.scores):
        flags.append("non_finite_codes")
    elif not any(sae.alive):
        flags.append("never_fires")
    for data, scores in zip(sets, raw.scores, strict=True):
        unknown = _at_chance(scores, data)
        if unknown:
            flags.append(f"subject_does_not_know: {data.name}: {', '.join(unknown)}")
    for who, reader in (("llm", raw), ("sae", sae)):
        wanted = [
            k for k in options.ks if any(scores.correct and top(k) not in scores.correct for scores in reader.scores)
        ]
        if wanted:
            flags.append(f"fewer_features_than_k: {who}: {', '.join(map(str, wanted))}")
    return flags


def _at_chance(scores: Scores, data: ProbingSet) -> list[str]:
    """Classes that a probe on all raw channels doesn't tell better than a coin (p < 0.01)."""
    found = []
    for task, right in zip(data.tasks, scores.correct[FULL], strict=True):
        if float(right.double().mean()) <= 0.5 + Z * math.sqrt(0.25 / len(right)):
            found.append(task.name)
    return found


def _block(options: SparseProbingOptions, sets: Sequence[ProbingSet], raw: Reader, sae: Reader) -> dict[str, Any]:
    """What SAEBench's file has no place for; features are listed best first."""
    found = []
    for i, data in enumerate(sets):
        scores = sae.scores[i]
        chosen = [] if scores.features is None else [row[:LISTED].tolist() for row in scores.features]
        found.append(
            {
                "name": data.name,
                **data.facts,
                "features_not_zero": sae.alive[i],
                "fits_not_converged": {"llm": raw.scores[i].not_converged, "sae": scores.not_converged},
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
