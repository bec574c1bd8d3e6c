"""Means over seeds and their 95 % t-intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVEL = 0.95
# DESIGN section 7: two L0 count as matched when they differ by no more than this share of the smaller one.
# The pipeline's flags on missed targets use the same number.
L0_TOLERANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `low` and `high` are None with one seed: one value says nothing about its own spread."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """Seeds on which the metric is defined."""
        return len(self.values)

    @property
    def half_width(self) -> float | None:
        """Half the interval's width."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and 95 % t-interval, mean +- t_{0.975, n-1} s / sqrt(n), of the defined values; None without any."""
    found = tuple(value for value in values if value is not None)
    if not found:
        return None
    mean = math.fsum(found) / len(found)
    if len(found) == 1:
        return Estimate(mean, None, None, found)
    # scipy.special loads ten times faster than scipy.stats, and holds the same quantile function
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1))
    half = float(stdtrit(len(found) - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(len(found))
    return Estimate(mean, mean - half, mean + half, found)


def l0_matched(first: float, second: float) -> bool:
    """Whether two L0 are close enough for reconstruction to be compared."""
    smaller, larger = sorted((first, second))
    # a hair of slack: 33.6 over 32 is 5 % on paper, not in binary
    return larger - smaller <= (L0_TOLERANCE + 1e-9) * smaller


def l0_groups(values: Sequence[float | None]) -> list[str | None]:
    """A letter for each L0; all that share a letter are matched with one another. None for an undefined L0.

    Greedy from the smallest, so a pair that is matched may still end up in two groups, never the other way round.
    """
    groups: list[str | None] = [None] * len(values)
    index, start = -1, -math.inf
    defined = [(value, i) for i, value in enumerate(values) if value is not None]
    for value, i in sorted(defined):
        if index < 0 or not l0_matched(start, value):
            index, start = index + 1, value
        groups[i] = _letter(index)
    return groups


def _letter(index: int) -> str:
    """a ... z, aa, ab ..."""
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("a") + rest) + text
    return text
