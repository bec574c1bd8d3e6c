"""Standard errors and 95 % intervals by resampling whole units (documents, facts, texts): within one, things depend."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 1000
# Resamples times units held at once.
CHUNK = 2**22


@dataclass(frozen=True)
class Interval:
    """Standard error and percentile interval of a metric over resampled units."""

    se: float
    low: float
    high: float
    n_units: int


def bootstrap(
    statistic: Callable[[Float[Tensor, "resamples units"]], Float[Tensor, " resamples"]],
    n_units: int,
    seed: int,
) -> Interval | None:
    """Interval of `statistic`, which maps how often each unit is drawn to the metric on that resample.

    None with fewer than two units, or where the metric is undefined on some resample.
    """
    if n_units < 2:
        return None
    values = torch.cat([statistic(counts) for counts in _draws(n_units, seed)])
    if not values.isfinite().all():
        return None
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(se=float(values.std()), low=low, high=high, n_units=n_units)


def _draws(n_units: int, seed: int) -> Iterator[Float[Tensor, "resamples units"]]:
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, CHUNK // n_units)
    for start in range(0, RESAMPLES, at_once):
        n = min(at_once, RESAMPLES - start)
        drawn = torch.randint(n_units, (n, n_units), generator=generator)
        counts = torch.zeros(n, n_units, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
