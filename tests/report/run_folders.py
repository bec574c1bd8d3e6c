"""Writes run folders as the pipeline does, file by file, with numbers of the test's choosing."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

CORE = {
    "explained_variance": 0.9,
    "explained_variance_legacy": 0.88,
    "pca_explained_variance": 0.77,
    "mse": 0.0123,
    "cossim": 0.95,
    "l0": 32.0,
    "l1": 210.0,
    "frac_alive": 0.98,
    "ce_loss_without_sae": 3.0,
    "ce_loss_with_sae": 3.2,
    "ce_loss_with_ablation": 9.0,
    "ce_loss_score": 0.96,
    "kl_div_score": 0.95,
    "n_tokens": 65536,
}


def sae(name: str = "topk", seed: int = 0, *, core: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """One entry of final_info.json; `core` changes single metrics."""
    options = {"d_sae": 2048, "k": 32} if name.startswith("topk") else {"d_sae": 2048, "target_l0": 32.0}
    entry = {
        "preset": name.partition("@")[0],
        "seed": seed,
        "site": "blocks.2.hook_resid_post",
        "training_steps": 488,
        "tokens": 999_424,
        "final_loss": 21.5,
        "layer": 2,
        "dict_size": 2048,
        "d_in": 128,
        "learning_rate": 0.001,
        "sparsity_penalty": None if "k" in options else 0.4,
        "options": options,
        "flags": [],
        "metrics": {"core": {**CORE, **(core or {})}},
    }
    return {**entry, **changes}


def write_run(folder: Path, saes: dict[str, dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A complete run folder. `config` and `started` may be given; anything else goes into final_info.json."""
    saes = {"topk": sae()} if saes is None else saes
    started = changes.pop("started", "2025-01-01T10:00:00+00:00")
    config = {"name": folder.name, "training": {"lr": 0.001, "seeds": [0]}, "saes": {"topk": {"k": 32}}}
    config |= changes.pop("config", {})
    machine = {"device": "Some CPU", "cores": 8, "threads": 2, "platform": "Linux x86_64"}
    info = {
        "schema": 1,
        "name": folder.name,
        "description": "A run of the tests.",
        "saes": saes,
        "subject": {"model": "world", "fingerprint": "f" * 64, "n_layers": 4, "d_model": 128},
        "corpus": {"sources": [{"path": "world"}]},
        "config_sha256": "c0ffee" * 10,
        "versions": {"chronosae": "0.1.0", "torch": "2.13.0"},
        "machine": machine,
        "seeds": {"data": 0, "saes": [0]},
        "started": started,
        "wall_seconds": 61.5,
        "flags": [],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write(folder / "run.json", {"schema": 1, "status": "complete", "started": started})
    write(folder / "final_info.json", info)
    return folder


def write_interrupted(folder: Path, status: str = "interrupted") -> Path:
    """A run folder that never reached final_info.json."""
    write_run(folder)
    (folder / "final_info.json").unlink()
    write(folder / "run.json", {"schema": 1, "status": status})
    return folder


def write_training(folder: Path, names: list[str], steps: int = 20, tokens_a_step: int = 2048) -> list[dict[str, Any]]:
    """metrics.jsonl with smooth curves; returns its rows."""
    rows = []
    for step in range(1, steps + 1):
        for i, name in enumerate(names):
            fall = math.exp(-6 * step / steps)
            rows.append(
                {
                    "sae": name,
                    "step": step * 20,
                    "tokens": step * 20 * tokens_a_step,
                    "loss": 20 + 3 * i + 90 * fall,
                    "l0": 32 + i + (900 * fall if name.startswith("relu") else 0),
                    "dead": int(300 * (step / steps) * math.exp(-3 * step / steps)) * (1 + i),
                    "grad_norm": 1.0,
                    "lr": 0.001,
                }
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def write_evaluation(folder: Path, name: str, densities: list[float], curve: dict[int, float] | None = None) -> None:
    """evals/core/<name>_eval_results.json with the parts the report reads."""
    path = folder / "evals" / "core" / f"{name}_eval_results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    curve = curve or {2**i: 1 - 0.62 * math.exp(-(2**i) / 22) for i in range(8)}
    details = [{"index": i, "feature_density": density} for i, density in enumerate(densities)]
    interval = {"se": 0.001, "low": 0.898, "high": 0.902, "n_units": 512}
    block = {
        "pca": {"fitted_on": "evaluated tokens", "curve": {str(k): value for k, value in curve.items()}},
        "intervals": {"level": 0.95, "metrics": {"explained_variance": interval}},
    }
    write(path, {"eval_type_id": "core", "eval_result_details": details, "chronosae": block})


def write_intervals(folder: Path, evaluation: str, name: str, **metrics: tuple[float, float]) -> None:
    """evals/<evaluation>/<name>_eval_results.json with nothing but intervals over examples."""
    path = folder / "evals" / evaluation / f"{name}_eval_results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {metric: {"se": 0.001, "low": low, "high": high, "n_units": 9} for metric, (low, high) in metrics.items()}
    write(path, {"eval_type_id": evaluation, "chronosae": {"intervals": {"level": 0.95, "metrics": found}}})


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")
