"""From what was measured to the result of one autoencoder: scores, intervals over base entities, rows, flags."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.ravel.data import NAME, RavelOptions
from chronosae.evals.ravel.measure import Measured, Outcome, SetOutcome
from chronosae.evals.workbench import Workbench

Part = tuple[Tensor, Tensor]
"""Right or wrong, and the group, of each pair."""


def report(options: RavelOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """The result of autoencoder `name`."""
    sets = measured.sets
    seed = int(torch.randint(2**31, (1,), generator=bench.generator(NAME, "bootstrap")))
    there = [(found, outcomes) for found in sets if (outcomes := found.saes[name])]
    own, raw = [outcomes for _, outcomes in there], [found.raw for found, _ in there]
    whole = [found.whole for found in sets]
    metrics: dict[str, dict[str, float | None]] = {}
    intervals: dict[str, Interval] = {}
    for category, prefix, outcomes in (("ravel", "", own), ("llm", "llm_", raw), ("whole", "whole_activation_", whole)):
        values, found = _scores(prefix, outcomes, seed)
        metrics[category] = values
        intervals |= found
    return EvalResult(
        metrics=metrics,
        eval_config=_saebench_config(options, bench, sets),
        data_sha256=hashlib.sha256("".join(found.tokens for found in sets).encode()).hexdigest(),
        details=tuple(
            _row(found.data, *three)
            for found, outcomes in there
            for three in zip(outcomes, found.raw, found.mediated, strict=True)
        ),
        intervals=intervals,
        resampled="base entities",
        flags=_flags(name, sets),
        block={"known_share": {found.data: found.pairs.known_share for found in sets}},
    )


def _scores(
    prefix: str, sets: Sequence[list[Outcome]], seed: int
) -> tuple[dict[str, float | None], dict[str, Interval]]:
    """Means over the attributes of all sets, with intervals over base entities."""
    parts: dict[str, list[Part]] = {"cause": [], "isolation": []}
    offset = 0
    for outcomes in sets:
        for outcome in outcomes:
            parts["cause"].append((outcome.cause, outcome.cause_group + offset))
            parts["isolation"].append((outcome.isolation, outcome.isolation_group + offset))
        # Entities of different sets are different groups.
        offset += 1 + max((int(g.max()) for o in outcomes for g in (o.cause_group, o.isolation_group)), default=0)
    metrics: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {}
    named = {"disentanglement": parts["cause"] + parts["isolation"], **parts}
    for key, some in named.items():
        metric = f"{prefix}{key}_score"
        metrics[metric] = None
        if some:
            statistic, n = _mean_of_means(some)
            metrics[metric] = float(statistic(torch.ones(1, n, dtype=torch.float64)))
            interval = bootstrap(statistic, n, seed)
            if interval is not None:
                intervals[metric] = interval
    return metrics, intervals


def _mean_of_means(parts: Sequence[Part]) -> tuple[Callable[[Tensor], Tensor], int]:
    """The mean over parts of the share that is right, as a function of how often each entity is drawn."""
    entities = torch.cat([group for _, group in parts]).unique()
    right = torch.zeros(len(parts), len(entities), dtype=torch.float64)
    total = torch.zeros_like(right)
    for i, (values, group) in enumerate(parts):
        place = torch.searchsorted(entities, group)
        right[i].index_add_(0, place, values.double())
        total[i].index_add_(0, place, torch.ones(len(place), dtype=torch.float64))

    def statistic(counts: Tensor) -> Tensor:
        # A resample may leave out every entity of a part; the others then stand for it.
        return ((counts @ right.T) / (counts @ total.T)).nanmean(1)

    return statistic, len(entities)


def _row(data: str, own: Outcome, raw: Outcome, whole: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"data": data, "attribute": own.attribute, "features_chosen": own.chosen}
    for prefix, outcome in (("", own), ("llm_", raw), ("whole_activation_", whole)):
        cause, isolation = outcome.cause_score, outcome.isolation_score
        row[f"{prefix}disentanglement_score"] = (cause + isolation) / 2
        row[f"{prefix}cause_score"], row[f"{prefix}isolation_score"] = cause, isolation
    return row | {"cause_pairs": len(own.cause), "isolation_pairs": len(own.isolation)}


def _flags(name: str, sets: Sequence[SetOutcome]) -> tuple[str, ...]:
    def listed(which: Callable[[SetOutcome], Sequence[str]]) -> str:
        return ", ".join(f"{found.data}/{attribute}" for found in sets for attribute in which(found))

    found = {
        "subject_does_not_know": listed(lambda s: s.pairs.unknown),
        "non_finite_codes": listed(lambda s: list(s.pairs.test) if s.saes[name] is None else []),
        "no_feature_chosen": listed(lambda s: [o.attribute for o in s.saes[name] or [] if not o.chosen]),
        "site_does_not_mediate": listed(lambda s: s.unmediated),
    }
    return tuple(f"{flag}: {what}" for flag, what in found.items() if what)


def _saebench_config(options: RavelOptions, bench: Workbench, sets: Sequence[SetOutcome]) -> dict[str, Any]:
    """SAEBench's `eval_config`, its fields as this evaluation ran."""
    return {
        "entity_attribute_selection": {found.data: sorted(found.pairs.test) for found in sets},
        "top_n_templates": options.templates,
        "num_pairs_per_attribute": options.train_pairs + options.test_pairs,
        "train_test_split": options.train_share,
        "model_name": bench.subject.name,
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "llm_batch_size": options.batch,
        "learning_rate": options.lr,
        "num_epochs": max(1, round(options.steps * options.batch / (2 * options.train_pairs))),
    }
