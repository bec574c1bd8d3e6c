"""Bootstrap intervals of the core metrics that are means or ratios of sums over tokens: their formulas on resamples."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.evals.behaviour import CLEAN, MEAN, ZERO, BehaviourTotals
from chronosae.evals.bootstrap import Interval, bootstraps
from chronosae.evals.core_metrics import NO_EFFECT
from chronosae.evals.moments import CONSTANT, SiteMoments
from chronosae.evals.reconstruction import QUANTITIES, ReconstructionTotals

Counts = Float[Tensor, "resamples documents"]
"""How often each document is drawn."""
Values = dict[str, Float[Tensor, " resamples"]]
"""Metric -> its value on each resample; NaN or Inf where it is undefined there."""

MEANS = {
    "cossim": "cosine",
    "l2_norm_in": "norm_in",
    "l2_norm_out": "norm_out",
    "l2_ratio": "ratio",
    "l0": "l0",
    "novel_l0": "novel_l0",
    "l1": "l1",
}
"""Metric -> the quantity whose mean over tokens it is."""


def intervals(
    totals: ReconstructionTotals, moments: SiteMoments, behaviour: BehaviourTotals, name: str, seed: int
) -> dict[str, Interval]:
    """95 % intervals over documents of everything that `of_reconstruction` and `of_behaviour` tell."""
    found = bootstraps(of_reconstruction(totals, moments), len(totals.by_document), seed)
    return found | bootstraps(of_behaviour(behaviour, name), len(behaviour.ce_count), seed)


def of_reconstruction(totals: ReconstructionTotals, moments: SiteMoments) -> Callable[[Counts], Values]:
    """`core_metrics.reconstruction_metrics` on resamples; without the PCA line, which would need its fit anew."""

    def on(counts: Counts) -> Values:
        sums: Values = dict(zip(QUANTITIES, (counts @ totals.by_document).T, strict=True))
        n, error, square_out = sums["tokens"], sums["error"], sums["square_out"]
        return {metric: sums[quantity] / n for metric, quantity in MEANS.items()} | {
            "explained_variance": 1 - error / _variance(counts, n, moments),
            "mse": error / n / len(moments.mean),
            "relative_reconstruction_bias_pooled": torch.where(square_out == 0, 0.0, square_out / sums["dot"]),
        }

    return on


def _variance(counts: Counts, n: Float[Tensor, " resamples"], moments: SiteMoments) -> Float[Tensor, " resamples"]:
    """About each resample's own mean: sum ||c||^2 - ||sum c||^2 / n, c the centred activations. NaN where none is."""
    squares = counts @ moments.centred_squares
    variance = squares - (counts @ moments.centred_sums).square().sum(1) / n
    return torch.where(variance > CONSTANT * squares, variance, torch.nan)


def of_behaviour(totals: BehaviourTotals, name: str) -> Callable[[Counts], Values]:
    """`core_metrics.behaviour_metrics` on resamples; a score is undefined where the ablation does no harm."""

    def on(counts: Counts) -> Values:
        ce, kl = _means(counts, totals.ce, totals.ce_count), _means(counts, totals.kl, totals.kl_count)
        values = {
            "ce_loss_without_sae": ce[CLEAN],
            "ce_loss_with_sae": ce[name],
            "ce_loss_with_ablation": ce[ZERO],
            "ce_loss_with_mean_ablation": ce[MEAN],
            "kl_div_with_sae": kl[name],
            "kl_div_with_ablation": kl[ZERO],
            "kl_div_with_mean_ablation": kl[MEAN],
        }
        for suffix, ablation in (("", ZERO), ("_mean_ablation", MEAN)):
            gap = ce[ablation] - ce[CLEAN]
            score = (ce[ablation] - ce[name]) / gap
            values["ce_loss_score" + suffix] = torch.where(gap > NO_EFFECT * ce[CLEAN], score, torch.nan)
            score = 1 - kl[name] / kl[ablation]
            values["kl_div_score" + suffix] = torch.where(kl[ablation] > NO_EFFECT, score, torch.nan)
        return values

    return on


def _means(counts: Counts, sums: Mapping[str, Tensor], n: Tensor) -> dict[str, Float[Tensor, " resamples"]]:
    tokens = counts @ n.double()
    return {name: (counts @ column) / tokens for name, column in sums.items()}
