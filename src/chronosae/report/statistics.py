"""Means over seeds with their 95 % t-intervals, L0 that match, and differences that are more than chance.

Differences to a baseline are paired by seed and corrected for how many are looked at.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from chronosae.config.registry import REGISTRIES
from chronosae.config.run_folder import SAEResult

LEVEL = 0.95
# DESIGN section 7: two L0 count as matched when they differ by no more than this share of the smaller one.
# The pipeline's flags on missed targets use the same number.
L0_TOLERANCE = 0.05
FEWEST_PAIRS = 3
"""With fewer no test is made: two equal differences would have no spread, and p = 0."""
ENOUGH_PAIRS = 5
"""Differences over fewer are exploratory."""
HEADLINES: Mapping[str, str] = {
    "explained_variance": "FVE",
    "ce_loss_score": "CE rec.",
    "sparse_probing.sae_top_1_test_accuracy": "probing k=1",
    "sparse_probing.sae_top_5_test_accuracy": "probing k=5",
    "order_probing.sae_top_5_test_accuracy": "order k=5",
    "absorption.mean_absorption_fraction_score": "absorption",
    "scr.scr_metric_threshold_20": "SCR@20",
    "tpp.tpp_threshold_20_total_metric": "TPP@20",
    "ravel.disentanglement_score": "RAVEL",
    "unlearning.unlearning_score": "unlearning",
    "autointerp.autointerp_score": "autointerp",
}
"""What the package's own evaluations declare as `headline`, in the order of tables; said here too, so that a comparison
needs none of them. SCR's and TPP's reliability is disputed (arXiv 2605.18229)."""


def headlines() -> dict[str, str]:
    """Metric -> its title in tables: one number an evaluation, for the more are tested, the less any of them can show.

    Evaluations from outside the package are among them once they are imported (`--plugin`).
    """
    found = dict(HEADLINES)
    evaluations = REGISTRIES.get("evaluation")
    for name, evaluation in evaluations.imported.items() if evaluations else ():
        declared: Mapping[str, str] = getattr(evaluation, "headline", {})
        prefix = "" if name == "core" else f"{name}."
        found |= {f"{prefix}{metric}": title for metric, title in declared.items()}
    return found


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


@dataclass(frozen=True)
class Difference:
    """One autoencoder minus the baseline in one metric, over the seeds that both have."""

    metric: str
    baseline: str
    found: Estimate
    p: float | None
    """Two-sided, of a paired t-test, Holm-corrected over the table; None with fewer than `FEWEST_PAIRS` of seeds."""

    @property
    def significant(self) -> bool | None:
        """Whether p is below 5 %; None where so few pairs of seeds say nothing about chance."""
        return None if self.p is None else self.p < 1 - LEVEL


def difference(metric: str, members: Sequence[SAEResult], baseline: Sequence[SAEResult]) -> Difference | None:
    """The uncorrected difference; None where no seed has the metric on both sides."""
    other = {sae.seed: sae.metrics.get(metric) for sae in baseline if sae.seed is not None}
    pairs = ((sae.metrics.get(metric), other.get(sae.seed)) for sae in members if sae.seed is not None)
    values = [x - y for x, y in pairs if x is not None and y is not None]
    found = estimate(values)
    if found is None:
        return None
    return Difference(metric, baseline[0].base, found, _p_value(values))


def _p_value(values: Sequence[float]) -> float | None:
    n = len(values)
    if n < FEWEST_PAIRS:
        return None
    mean = math.fsum(values) / n
    spread = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy.special import stdtr  # scipy.special loads ten times faster than scipy.stats

    return float(2 * stdtr(n - 1, -abs(mean) / math.sqrt(spread / n)))


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with p corrected by Holm's step-down method over all that have one."""
    tested = sorted((i for i, d in enumerate(differences) if d.p is not None), key=lambda i: differences[i].p or 0.0)
    corrected = list(differences)
    least = 0.0
    for rank, i in enumerate(tested):
        p = differences[i].p
        assert p is not None
        least = max(least, min(1.0, p * (len(tested) - rank)))
        corrected[i] = replace(differences[i], p=least)
    return corrected
