"""A core result as SAEBench's JSON: which metric goes into which category, and what its readers want beside them."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chronosae.autoencoders import Autoencoder
from chronosae.config import CoreEvalConfig
from chronosae.evals.core_result import CoreResult
from chronosae.evals.envelope import Provenance, envelope, write_envelope
from chronosae.evals.features import FeatureTable
from chronosae.evals.sae_config import sae_cfg_dict

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


def core_envelope(
    name: str,
    sae: Autoencoder,
    result: CoreResult,
    cfg: CoreEvalConfig,
    provenance: Provenance,
    eval_id: str | None = None,
) -> dict[str, Any]:
    """The JSON of one autoencoder's core evaluation; see `chronosae.evals.envelope`."""
    flat = result.metrics.model_dump()
    data = result.data
    metrics = {category: {metric: flat[metric] for metric in names} for category, names in CATEGORIES.items()}
    metrics["token_stats"] = {
        "total_tokens_eval_reconstruction": data.behaviour_sequences * data.context,
        "total_tokens_eval_sparsity_variance": data.sequences * data.context,
    }
    return envelope(
        eval_type_id="core",
        eval_config=_eval_config(result, cfg, provenance),
        metrics=metrics,
        details=_details(result.features),
        sae_name=name,
        sae_cfg_dict=sae_cfg_dict(sae, data.site, data.context, provenance),
        block=_block(result, cfg, provenance),
        eval_id=eval_id,
    )


def write_core(
    path: Path,
    name: str,
    sae: Autoencoder,
    result: CoreResult,
    cfg: CoreEvalConfig,
    provenance: Provenance,
    eval_id: str | None = None,
) -> None:
    """Write `core_envelope` to `path`, by convention `evals/core/<name>_eval_results.json`."""
    write_envelope(core_envelope(name, sae, result, cfg, provenance, eval_id), path)


def _eval_config(result: CoreResult, cfg: CoreEvalConfig, provenance: Provenance) -> dict[str, Any]:
    """What SAEBench's `CoreEvalConfig` would have had to be."""
    computed = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
    computed += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
    return {
        "model_name": provenance.subject,
        "llm_dtype": provenance.subject_dtype,
        "batch_size_prompts": cfg.batch_sequences,
        "n_eval_reconstruction_batches": result.data.behaviour_batches,
        "n_eval_sparsity_variance_batches": result.data.batches,
        "dataset": provenance.dataset,
        "context_size": result.data.context,
        **{f"compute_{what}": True for what in computed},
        "exclude_special_tokens_from_reconstruction": provenance.exclude_special,
        "verbose": False,
    }


def _block(result: CoreResult, cfg: CoreEvalConfig, provenance: Provenance) -> dict[str, Any]:
    data = result.data
    return {
        "site": data.site,
        "subject": {"model": provenance.subject, "fingerprint": provenance.subject_fingerprint},
        "seed": provenance.seed,
        "config_sha256": provenance.config_sha256,
        "data_sha256": data.sha256,
        "device": provenance.device,
        "matched_l0": result.metrics.novel_l0,
        "wall_seconds": round(result.wall_seconds, 3),
        "evaluated_together": result.evaluated_together,
        "config": cfg.model_dump(mode="json"),
        "tokens": {
            "unmasked": result.features.n_tokens,
            "sequences": data.sequences,
            "behaviour_sequences": data.behaviour_sequences,
            "context": data.context,
        },
        "metrics": result.metrics.model_dump(),
        "undefined": result.metrics.undefined(),
        "flags": list(result.flags),
        "intervals": {
            "level": 0.95,
            "resampled": "documents",
            "seed": result.seed,
            "metrics": {metric: asdict(interval) for metric, interval in result.intervals.items()},
        },
        "by_position": result.by_position,
        "by_document_position": result.by_document_position,
        "histograms": result.histograms,
        "pca": {"fitted_on": "evaluated tokens", "curve": {str(k): value for k, value in result.pca_curve.items()}},
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
