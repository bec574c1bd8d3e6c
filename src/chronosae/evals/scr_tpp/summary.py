"""Many data sets and seeds as one number each, with its interval and its spread over seeds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.scr_tpp.measure import Logits, Measured

Scores = Callable[[Measured, Logits, int, Float[Tensor, "resamples rows"]], dict[str, Float[Tensor, " resamples"]]]
"""Data set, logits of one seed, n, resamples -> metrics by name, NaN where undefined."""


@dataclass(frozen=True)
class Summary:
    """Of one autoencoder. Undefined is None."""

    metrics: dict[str, float | None]
    """Means over data sets of means over seeds, of what is defined."""
    by_set: dict[str, dict[str, float | None]]
    by_seed: dict[str, dict[str, Any]]
    """Metric -> its value for each seed of the probes, and their standard deviation."""
    intervals: dict[str, Interval]
    undefined: dict[str, dict[str, int]]
    """Data set -> metric -> in how many seeds it is undefined, where it is in any."""


def summarise(
    sets: Sequence[Measured], sae: str, ns: Sequence[int], names: Callable[[int], list[str]], scores: Scores, seed: int
) -> Summary:
    """All metrics of one autoencoder.

    Arguments:
        names: n -> names of the metrics that `scores` gives for it.
        seed: of the resampling.
    """
    found: dict[str, list[list[float]]] = {name: [] for n in ns for name in names(n)}
    intervals = {}
    for n in ns:
        for data in sets:
            whole = torch.ones(1, len(data.tasks.texts), dtype=torch.float64)
            seeds = [scores(data, one, n, whole) if n in one.ablated else {} for one in data.logits[sae]]
            for name in names(n):
                found[name].append([float(values.get(name, torch.nan)) for values in seeds])
        for name in names(n):
            interval = _interval(sets, sae, n, name, scores, found[name], seed)
            if interval is not None:
                intervals[name] = interval
    by_set = {
        data.tasks.name: {name: _mean(values[i]) for name, values in found.items()} for i, data in enumerate(sets)
    }
    return Summary(
        metrics={name: _mean([_mean(seeds) for seeds in values]) for name, values in found.items()},
        by_set=by_set,
        by_seed={name: _spread(values) for name, values in found.items()},
        intervals=intervals,
        undefined=_undefined(sets, found),
    )


def _interval(
    sets: Sequence[Measured], sae: str, n: int, name: str, scores: Scores, values: list[list[float]], seed: int
) -> Interval | None:
    """Over resampled test texts of all data sets; a data set or seed that is undefined on all texts stays out."""
    shares = _shares(values)
    sizes = [int(data.tasks.groups.max()) + 1 for data in sets]

    def statistic(counts: Float[Tensor, "resamples groups"]) -> Float[Tensor, " resamples"]:
        total = torch.zeros(len(counts), dtype=torch.float64)
        for i, (data, drawn) in enumerate(zip(sets, counts.split(sizes, 1), strict=True)):
            for share, one in zip(shares[i], data.logits[sae], strict=True):
                if share:
                    total += share * scores(data, one, n, drawn[:, data.tasks.groups])[name]
        return total

    return bootstrap(statistic, sum(sizes), seed) if any(map(any, shares)) else None


def _shares(values: list[list[float]]) -> list[list[float]]:
    """What each seed of each data set counts in the mean of means."""
    defined = [[value == value for value in seeds] for seeds in values]
    sets = sum(map(any, defined))
    return [[one / (sets * sum(seeds)) if one else 0.0 for one in seeds] for seeds in defined]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None and value == value]
    return statistics.fmean(defined) if defined else None


def _spread(values: list[list[float]]) -> dict[str, Any]:
    means = [_mean(seeds) for seeds in zip(*values, strict=True)]
    defined = [mean for mean in means if mean is not None]
    return {"values": means, "sd": statistics.stdev(defined) if len(defined) > 1 else None}


def _undefined(sets: Sequence[Measured], found: dict[str, list[list[float]]]) -> dict[str, dict[str, int]]:
    missing: dict[str, dict[str, int]] = {}
    for name, values in found.items():
        for data, seeds in zip(sets, values, strict=True):
            n = sum(value != value for value in seeds)
            if n:
                missing.setdefault(data.tasks.name, {})[name] = n
    return missing
