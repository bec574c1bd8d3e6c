"""From core's sums to metrics, flags, intervals and a result. Formulas: `docs/evaluations/core.md`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.config import CoreEvalConfig, Section
from chronosae.evals.bootstrap import Interval, bootstraps
from chronosae.evals.core.data import CONSTANT, CoreData, PCALine, SiteSpread
from chronosae.evals.core.features import FeatureTable, histograms
from chronosae.evals.core.measure import (
    CLEAN,
    MEAN,
    QUANTITIES,
    ZERO,
    BehaviourTotals,
    Measured,
    MeasuredSAE,
    ReconstructionTotals,
    edit_key,
)
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.workbench import Workbench

Metric = float | None


class CoreMetrics(Section):
    """The core metrics by their flat names; None where a metric is undefined. NaN and Inf are refused."""

    explained_variance: Metric = None
    """1 - sum ||x - y||^2 / sum ||x - mean x||^2 over all unmasked tokens."""
    explained_variance_saebench_060: Metric = None
    """What SAEBench 0.6.0 calls explained_variance (scale dependent)."""
    explained_variance_legacy: Metric = None
    """What SAEBench's paper calls explained variance: mean over tokens of 1 - e / ||x - batch mean||^2."""
    pca_explained_variance: Metric = None
    """explained_variance of round(novel_l0) principal components, fitted on the evaluated tokens."""
    mse: Metric = None
    """Mean squared error an element."""
    mse_saebench: Metric = None
    """What SAEBench calls mse: mean over batches of (mean ||x - y||^2), over the mean tokens a batch."""
    cossim: Metric = None
    """Mean over tokens of cos(x, y); 0 where either is zero."""
    l2_norm_in: Metric = None
    """Mean ||x||."""
    l2_norm_out: Metric = None
    """Mean ||y||."""
    l2_ratio: Metric = None
    """Mean of ||y|| / ||x||: below 1 is shrinkage."""
    relative_reconstruction_bias: Metric = None
    """Mean over batches of mean ||y||^2 / mean x.y (SAEBench)."""
    relative_reconstruction_bias_pooled: Metric = None
    """sum ||y||^2 / sum x.y over all tokens: equation 10 of arXiv 2404.16014."""
    l0: Metric = None
    """Mean number of features active at a token."""
    novel_l0: Metric = None
    """The same without the features that TFA predicts from the past (a dense vector); elsewhere it is l0."""
    l1: Metric = None
    """Mean sum of |code| at a token, in the autoencoder's own units."""
    frac_alive: Metric = None
    """Share of the features that fired on at least one evaluated token."""
    freq_over_1_percent: Metric = None
    """Share of the features that fire on more than 1 % of the tokens."""
    freq_over_10_percent: Metric = None
    """Share of the features that fire on more than 10 % of the tokens."""
    normalized_freq_over_1_percent: Metric = None
    """Share of all activations that belongs to features firing on more than 1 % of the tokens."""
    normalized_freq_over_10_percent: Metric = None
    """Share of all activations that belongs to features firing on more than 10 % of the tokens."""
    average_max_encoder_cosine_sim: Metric = None
    """Mean over features of the largest cosine with another feature's encoder weights."""
    average_max_decoder_cosine_sim: Metric = None
    """Mean over features of the largest cosine with another feature's decoder weights."""
    decoder_cosine_separation: Metric = None
    """Mean squared cosine between different decoder rows."""
    decoder_welch_floor: Metric = None
    """The least it can be: (F - d) / (d (F - 1)), F features in d dimensions (Welch 1974)."""
    ce_loss_without_sae: Metric = None
    """Next-token cross-entropy of the subject, nats."""
    ce_loss_with_sae: Metric = None
    """The same with the reconstruction in place of the activations."""
    ce_loss_with_ablation: Metric = None
    """The same with zeros in place of the activations, at every position."""
    ce_loss_score: Metric = None
    """(CE with ablation - CE with SAE) / (CE with ablation - CE without): the loss recovered."""
    ce_loss_with_mean_ablation: Metric = None
    """The same with the mean unmasked activation, at unmasked positions."""
    ce_loss_score_mean_ablation: Metric = None
    """Loss recovered against mean ablation."""
    kl_div_with_sae: Metric = None
    """KL(clean || with the reconstruction), nats a position."""
    kl_div_with_ablation: Metric = None
    """KL(clean || zero ablation)."""
    kl_div_score: Metric = None
    """1 - KL with SAE / KL with ablation."""
    kl_div_with_mean_ablation: Metric = None
    """KL(clean || mean ablation)."""
    kl_div_score_mean_ablation: Metric = None
    """1 - KL with SAE / KL with mean ablation."""
    n_tokens: int | None = None
    """Unmasked tokens behind reconstruction and sparsity."""

    def defined(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    def undefined(self) -> list[str]:
        """Names of the metrics that aren't."""
        return [name for name, value in self.model_dump().items() if value is None]


# SAEBench's names first in each category, ours after them.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "model_behavior_preservation": (
        "kl_div_score",
        "kl_div_with_ablation",
        "kl_div_with_sae",
        "kl_div_score_mean_ablation",
        "kl_div_with_mean_ablation",
    ),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
        "ce_loss_score_mean_ablation",
        "ce_loss_with_mean_ablation",
    ),
    "reconstruction_quality": (
        "explained_variance",
        "explained_variance_legacy",
        "mse",
        "cossim",
        "explained_variance_saebench_060",
        "mse_saebench",
        "pca_explained_variance",
    ),
    "shrinkage": (
        "l2_norm_in",
        "l2_norm_out",
        "l2_ratio",
        "relative_reconstruction_bias",
        "relative_reconstruction_bias_pooled",
    ),
    "sparsity": ("l0", "l1", "novel_l0"),
    "misc_metrics": (
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "decoder_cosine_separation",
        "decoder_welch_floor",
        "frac_alive",
    ),
}

# Decimals of per-feature numbers, as SAEBench rounds them.
DECIMALS = 10


def report(name: str, measured: Measured, options: CoreEvalConfig, bench: Workbench) -> EvalResult:
    """The result of the autoencoder called `name`."""
    data, sae = measured.data, measured.saes[name]
    metrics, flags, found = _metrics(name, sae, measured, bench.seed)
    flat = metrics.model_dump()
    tokens = {
        "total_tokens_eval_reconstruction": data.behaviour_sequences * data.context,
        "total_tokens_eval_sparsity_variance": data.sequences * data.context,
    }
    return EvalResult(
        metrics={category: {metric: flat[metric] for metric in names} for category, names in CATEGORIES.items()}
        | {"token_stats": tokens},
        by_name=flat,
        eval_config=_eval_config(data, options, bench),
        data_sha256=data.sha256,
        context=data.context,
        details=tuple(_details(sae.features)),
        intervals=found,
        resampled="documents",
        resample_seed=bench.seed,
        flags=tuple(flags),
        block=_block(sae, measured, metrics),
    )


def _metrics(
    name: str, sae: MeasuredSAE, measured: Measured, seed: int
) -> tuple[CoreMetrics, list[str], dict[str, Interval]]:
    """Metrics, the flags they raise, and the intervals of those that have one."""
    flags = ["fewer_tokens_than_asked"] if measured.data.short else []
    if not sae.finite:
        return CoreMetrics(), [*flags, "non_finite_output"], {}
    values = reconstruction_metrics(sae.totals, measured.spread, measured.pca)
    values |= sae.variants | sae.features.summary() | sae.decoder
    flags += reconstruction_flags(values)
    flags += ["negative_codes"] if sae.negative else []
    behaved, raised = behaviour_metrics(measured.behaviour, edit_key(name))
    metrics = CoreMetrics.model_validate(values | behaved)
    found = bootstraps(of_reconstruction(sae.totals, measured.spread), len(sae.totals.by_document), seed)
    found |= bootstraps(of_behaviour(measured.behaviour, edit_key(name)), len(measured.behaviour.ce_count), seed)
    defined = metrics.defined()
    return metrics, flags + raised, {metric: interval for metric, interval in found.items() if metric in defined}


def _block(sae: MeasuredSAE, measured: Measured, metrics: CoreMetrics) -> dict[str, Any]:
    data, tables = measured.data, (sae.columns, sae.places)
    by_column, by_place = (table.table(measured.spread.mean) if sae.finite else {} for table in tables)
    return {
        "matched_l0": metrics.novel_l0,
        "evaluated_together": len(measured.saes),
        "tokens": {
            "unmasked": sae.features.n_tokens,
            "sequences": data.sequences,
            "behaviour_sequences": data.behaviour_sequences,
            "context": data.context,
        },
        "undefined": metrics.undefined(),
        "by_position": by_column,
        "by_document_position": by_place,
        "histograms": histograms(sae.features),
        "pca": {
            "fitted_on": "evaluated tokens",
            "curve": {str(k): value for k, value in measured.pca.curve().items()},
        },
    }


def _eval_config(data: CoreData, options: CoreEvalConfig, bench: Workbench) -> dict[str, Any]:
    """What SAEBench's `CoreEvalConfig` would have had to be."""
    computed = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
    computed += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
    return {
        "model_name": bench.subject.name,
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "batch_size_prompts": options.batch_sequences,
        "n_eval_reconstruction_batches": data.behaviour_batches,
        "n_eval_sparsity_variance_batches": data.batches,
        "dataset": bench.heldout.text if bench.heldout else "",
        "context_size": data.context,
        **{f"compute_{what}": True for what in computed},
        "exclude_special_tokens_from_reconstruction": bench.exclude_special,
        "verbose": False,
    }


def _details(features: FeatureTable) -> list[dict[str, Any]]:
    """One row a feature, as SAEBench's `CoreFeatureMetric`; tokens a prompt is undefined where it never fires."""
    prompts = features.prompts.double()
    columns = {
        "feature_density": features.density,
        "consistent_activation_heuristic": features.fired.double() / prompts,
        "encoder_bias": features.encoder_bias,
        "encoder_norm": features.encoder_norm,
        "encoder_decoder_cosine_sim": features.encoder_decoder_cosine_sim,
        "max_decoder_cosine_sim": features.max_decoder_cosine_sim,
        "max_encoder_cosine_sim": features.max_encoder_cosine_sim,
    }
    lists = {name: column.tolist() for name, column in columns.items()}
    return [{"index": i, **{name: _rounded(values[i]) for name, values in lists.items()}} for i in range(len(prompts))]


def _rounded(value: float) -> float | None:
    return round(value, DECIMALS) if math.isfinite(value) else None


# An ablation that changes the loss by less than this share of it is no yardstick.
NO_EFFECT = 1e-6

Metrics = dict[str, float | None]


def reconstruction_metrics(totals: ReconstructionTotals, spread: SiteSpread, pca: PCALine) -> Metrics:
    """Reconstruction, shrinkage, sparsity and the PCA line."""
    error, square_out, dot = totals.total("error"), totals.total("square_out"), totals.total("dot")
    l0, novel = totals.mean("l0"), totals.mean("novel_l0")
    return {
        "explained_variance": None if spread.constant else 1 - error / spread.total_variance,
        "pca_explained_variance": pca.at(round(novel)),
        "mse": error / spread.n_tokens / pca.d_in,
        "cossim": totals.mean("cosine"),
        "l2_norm_in": totals.mean("norm_in"),
        "l2_norm_out": totals.mean("norm_out"),
        "l2_ratio": totals.mean("ratio"),
        "relative_reconstruction_bias_pooled": _bias(square_out, dot),
        "l0": l0,
        "novel_l0": novel,
        "l1": totals.mean("l1"),
        "n_tokens": spread.n_tokens,
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


def of_reconstruction(totals: ReconstructionTotals, spread: SiteSpread) -> Callable[[Counts], Values]:
    """`reconstruction_metrics` on resamples; without the PCA line, which would need its fit anew."""

    def on(counts: Counts) -> Values:
        sums: Values = dict(zip(QUANTITIES, (counts @ totals.by_document).T, strict=True))
        n, error, square_out = sums["tokens"], sums["error"], sums["square_out"]
        return {metric: sums[quantity] / n for metric, quantity in MEANS.items()} | {
            "explained_variance": 1 - error / _variance(counts, n, spread),
            "mse": error / n / len(spread.mean),
            "relative_reconstruction_bias_pooled": torch.where(square_out == 0, 0.0, square_out / sums["dot"]),
        }

    return on


def _variance(counts: Counts, n: Float[Tensor, " resamples"], spread: SiteSpread) -> Float[Tensor, " resamples"]:
    """About each resample's own mean: sum ||c||^2 - ||sum c||^2 / n, c the centred activations. NaN where none is."""
    squares = counts @ spread.centred_squares
    variance = squares - (counts @ spread.centred_sums).square().sum(1) / n
    return torch.where(variance > CONSTANT * squares, variance, torch.nan)


def of_behaviour(totals: BehaviourTotals, name: str) -> Callable[[Counts], Values]:
    """`behaviour_metrics` on resamples; a score is undefined where the ablation does no harm."""

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
