"""From sums to the metrics and flags of one autoencoder. Formulas: `docs/evaluations/core.md`."""

import math

from chronosae.evals.behaviour import CLEAN, MEAN, ZERO, BehaviourTotals
from chronosae.evals.moments import SiteMoments
from chronosae.evals.pca import PCALine
from chronosae.evals.reconstruction import ReconstructionTotals

# An ablation that changes the loss by less than this share of it is no yardstick.
NO_EFFECT = 1e-6

Metrics = dict[str, float | None]


def reconstruction_metrics(totals: ReconstructionTotals, moments: SiteMoments, pca: PCALine) -> Metrics:
    """Reconstruction, shrinkage, sparsity and the PCA line."""
    error, square_out, dot = totals.total("error"), totals.total("square_out"), totals.total("dot")
    l0, novel = totals.mean("l0"), totals.mean("novel_l0")
    return {
        "explained_variance": None if moments.constant else 1 - error / moments.total_variance,
        "pca_explained_variance": pca.at(round(novel)),
        "mse": error / moments.n_tokens / pca.d_in,
        "cossim": totals.mean("cosine"),
        "l2_norm_in": totals.mean("norm_in"),
        "l2_norm_out": totals.mean("norm_out"),
        "l2_ratio": totals.mean("ratio"),
        "relative_reconstruction_bias_pooled": _bias(square_out, dot),
        "l0": l0,
        "novel_l0": novel,
        "l1": totals.mean("l1"),
        "n_tokens": moments.n_tokens,
    }


def _bias(square_out: float, dot: float) -> float | None:
    if square_out == 0:
        return 0.0  # the limit of a reconstruction that shrinks to zero
    return square_out / dot if dot else None


def behaviour_metrics(totals: BehaviourTotals, name: str) -> tuple[Metrics, list[str]]:
    """Cross-entropy and KL of one autoencoder against zero and mean ablation, and the flags they raise."""
    metrics: Metrics = {
        "ce_loss_without_sae": totals.mean_ce(CLEAN),
        "ce_loss_with_ablation": totals.mean_ce(ZERO),
        "ce_loss_with_mean_ablation": totals.mean_ce(MEAN),
        "kl_div_with_ablation": totals.mean_kl(ZERO),
        "kl_div_with_mean_ablation": totals.mean_kl(MEAN),
    }
    ce, kl = totals.mean_ce(name), totals.mean_kl(name)
    if not (math.isfinite(ce) and math.isfinite(kl)):
        return _finite(metrics), ["non_finite_logits"]
    metrics |= {"ce_loss_with_sae": ce, "kl_div_with_sae": kl}
    flags = []
    for suffix, ablation in (("", ZERO), ("_mean_ablation", MEAN)):
        ce_gap, kl_ablated = totals.mean_ce(ablation) - totals.mean_ce(CLEAN), totals.mean_kl(ablation)
        ce_defined, kl_defined = ce_gap > NO_EFFECT * totals.mean_ce(CLEAN), kl_ablated > NO_EFFECT
        metrics["ce_loss_score" + suffix] = (totals.mean_ce(ablation) - ce) / ce_gap if ce_defined else None
        metrics["kl_div_score" + suffix] = 1 - kl / kl_ablated if kl_defined else None
        flags += [] if ce_defined else ["ce_undefined" + suffix]
        flags += [] if kl_defined else ["kl_undefined" + suffix]
    if ce >= totals.mean_ce(ZERO):
        flags.append("ablation_not_worse_than_sae")
    return _finite(metrics), flags


def _finite(metrics: Metrics) -> Metrics:
    return {name: value if value is not None and math.isfinite(value) else None for name, value in metrics.items()}


def reconstruction_flags(metrics: Metrics) -> list[str]:
    """Flags that reconstruction, sparsity and density metrics raise."""
    explained, pca = metrics["explained_variance"], metrics["pca_explained_variance"]
    raised = {
        "never_fires": metrics["l0"] == 0,
        "constant_activations": explained is None,
        "dead_features_over_10_percent": 1 - (metrics["frac_alive"] or 0.0) > 0.1,
        "worse_than_mean": explained is not None and explained <= 0,
        "worse_than_pca": explained is not None and pca is not None and explained < pca,
    }
    return [flag for flag, on in raised.items() if on]
