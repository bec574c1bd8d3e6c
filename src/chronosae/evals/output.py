"""Any evaluation's result as SAEBench's JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from chronosae.autoencoders import Autoencoder
from chronosae.evals.envelope import Provenance, envelope, write_envelope
from chronosae.evals.evaluation import Evaluation
from chronosae.evals.result import EvalResult
from chronosae.evals.sae_config import sae_cfg_dict


def result_envelope(
    evaluation: Evaluation,
    name: str,
    sae: Autoencoder,
    site: str,
    result: EvalResult,
    provenance: Provenance,
    eval_id: str | None = None,
) -> dict[str, Any]:
    """The JSON of one autoencoder's result; see `chronosae.evals.envelope`."""
    flat = result.flat
    block = {
        "site": site,
        "subject": {"model": provenance.subject, "fingerprint": provenance.subject_fingerprint},
        "seed": provenance.seed,
        "config_sha256": provenance.config_sha256,
        "data_sha256": result.data_sha256,
        "device": provenance.device,
        "wall_seconds": round(result.wall_seconds, 3),
        "config": evaluation.model_dump(mode="json"),
        "metrics": flat,
        "undefined": sorted(metric for metric, value in flat.items() if value is None),
        "flags": list(result.flags),
        "intervals": {
            "level": 0.95,
            "resampled": result.resampled,
            "metrics": {metric: asdict(interval) for metric, interval in result.intervals.items()},
        },
        **result.block,
    }
    return envelope(
        eval_type_id=evaluation.eval_type_id,
        eval_config=result.eval_config,
        metrics=result.metrics,
        details=[dict(row) for row in result.details],
        unstructured=result.unstructured,
        sae_name=name,
        sae_cfg_dict=sae_cfg_dict(sae, site, 0, provenance),
        block=block,
        eval_id=eval_id,
        undefined=evaluation.undefined,
    )


def write_result(
    path: Path,
    evaluation: Evaluation,
    name: str,
    sae: Autoencoder,
    site: str,
    result: EvalResult,
    provenance: Provenance,
    eval_id: str | None = None,
) -> None:
    """Write `result_envelope`, by convention to `evals/<evaluation>/<name>_eval_results.json`."""
    written = result_envelope(evaluation, name, sae, site, result, provenance, eval_id)
    write_envelope(written, path)
