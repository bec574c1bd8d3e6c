"""Which differences to a baseline are more than chance: paired by seed, corrected for how many are looked at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chronosae.report.runs import SAEResult
from chronosae.report.statistics import LEVEL, Estimate, estimate

FEWEST_PAIRS = 3
"""With fewer no test is made: two equal differences would have no spread, and p = 0."""
ENOUGH_PAIRS = 5
"""Differences over fewer are exploratory."""

# One number an evaluation: the more are tested, the less any of them can show.
HEADLINES: dict[str, str] = {
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
"""Metric -> its title in tables. SCR's and TPP's reliability is disputed (arXiv 2605.18229)."""


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
