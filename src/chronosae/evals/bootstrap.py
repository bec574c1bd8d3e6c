"""Standard errors and 95 % intervals by resampling whole units (documents, facts, texts): within one, things depend."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 1000
# Where more of the resamples leave a metric undefined, those that don't are no picture of the whole.
MOST_UNDEFINED = 0.05
# Resamples times units held at once.
CHUNK = 2**22


@dataclass(frozen=True)
class Interval:
    """Standard error and percentile interval of a metric over resampled units."""

    se: float
    low: float
    high: float
    n_units: int
    undefined_share: float = 0.0
    """Share of the resamples that leave the metric undefined; error and interval are over the others."""


def bootstrap(
    statistic: Callable[[Float[Tensor, "resamples units"]], Float[Tensor, " resamples"]],
    n_units: int,
    seed: int,
) -> Interval | None:
    """Interval of `statistic`, which maps how often each unit is drawn to the metric on that resample.

    A resample where `statistic` isn't finite leaves the metric undefined. None with fewer than two units, or where more
    than `MOST_UNDEFINED` of the resamples do.
    """
    return bootstraps(lambda counts: {"": statistic(counts)}, n_units, seed).get("")


def bootstraps(
    statistics: Callable[[Float[Tensor, "resamples units"]], Mapping[str, Float[Tensor, " resamples"]]],
    n_units: int,
    seed: int,
) -> dict[str, Interval]:
    """The interval of every metric that has one, as `bootstrap` gives them one by one, from the same draws."""
    if n_units < 2:
        return {}
    parts = [statistics(counts) for counts in _draws(n_units, seed)]
    found = {name: _interval(torch.cat([part[name] for part in parts]), n_units) for name in parts[0]}
    return {name: interval for name, interval in found.items() if interval is not None}


def _interval(values: Float[Tensor, " resamples"], n_units: int) -> Interval | None:
    defined = values[values.isfinite()]
    undefined = (len(values) - len(defined)) / len(values)
    if undefined > MOST_UNDEFINED:
        return None
    low, high = defined.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(float(defined.std()), low, high, n_units, undefined_share=undefined)


def _draws(n_units: int, seed: int) -> Iterator[Float[Tensor, "resamples units"]]:
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, CHUNK // n_units)
    for start in range(0, RESAMPLES, at_once):
        n = min(at_once, RESAMPLES - start)
        drawn = torch.randint(n_units, (n, n_units), generator=generator)
        counts = torch.zeros(n, n_units, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
