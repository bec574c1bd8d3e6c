"""SAEBench's result envelope, the same for every evaluation: its twelve keys, and a `chronosae` block beside them.

SAEBench's schemas allow further keys, but most of them no null where they want a number. There a metric that is
undefined is -1 under SAEBench's own name, as SAEBench writes it; it is null in `chronosae.metrics`, which is what to
read.
"""

import json
import platform
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chronosae.version import __version__

UNDEFINED = -1
# Indentation makes Python write JSON some ten times slower.
INDENTED_ROWS = 20_000

KEYS = (
    "eval_type_id",
    "eval_config",
    "eval_id",
    "datetime_epoch_millis",
    "eval_result_metrics",
    "eval_result_details",
    "sae_bench_commit_hash",
    "sae_lens_id",
    "sae_lens_release_id",
    "sae_lens_version",
    "sae_cfg_dict",
    "eval_result_unstructured",
    "chronosae",
)


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from. What the evaluation can't know itself is handed in by whoever runs it."""

    subject: str
    """Name of the subject."""
    subject_fingerprint: str
    """`Subject.fingerprint`."""
    subject_dtype: str
    """Precision in which it ran."""
    dataset: str
    """Name of the text."""
    config_sha256: str
    """Hash of the run's configuration."""
    seed: int
    """Seed of the autoencoder."""
    device: str
    """Where the evaluation ran."""
    training_tokens: int = 0
    """Tokens the autoencoder was trained on."""
    training: Mapping[str, Any] | None = None
    """Anything else about the training that belongs in `sae_cfg_dict`."""
    exclude_special: bool = True
    """`activations.exclude_special`: BOS, EOS, padding and the first position were masked."""
    prepend_bos: bool = True
    """`activations.prepend_bos`: contexts began with BOS."""


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"chronosae": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def envelope(
    *,
    eval_type_id: str,
    eval_config: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float | None]],
    details: list[dict[str, Any]],
    sae_name: str,
    sae_cfg_dict: Mapping[str, Any],
    block: Mapping[str, Any],
    unstructured: Mapping[str, Any] | None = None,
    eval_id: str | None = None,
    undefined: int | None = UNDEFINED,
) -> dict[str, Any]:
    """One result as SAEBench's JSON holds it.

    Arguments:
        metrics: category -> flat metrics; None becomes `undefined`.
        details: one flat mapping a row; None becomes `undefined`.
        sae_name: SAEBench's release id, which its notebooks show.
        block: the `chronosae` block, where undefined stays null.
        unstructured: SAEBench's `eval_result_unstructured`.
        eval_id: one UUID for everything evaluated together; a fresh one when absent.
    """
    values = (
        eval_type_id,
        dict(eval_config),
        eval_id or str(uuid.uuid4()),
        int(time.time() * 1000),
        {category: _with(undefined, flat) for category, flat in metrics.items()},
        [_with(undefined, row) for row in details],
        f"chronosae {__version__}",
        "custom_sae",
        sae_name,
        None,
        dict(sae_cfg_dict),
        dict(unstructured or {}),
        {"schema": 1, "versions": versions(), **block},
    )
    return dict(zip(KEYS, values, strict=True))


def _with(undefined: int | None, flat: Mapping[str, Any]) -> dict[str, Any]:
    return {name: undefined if value is None else value for name, value in flat.items()}


def write_envelope(result: Mapping[str, Any], path: Path) -> None:
    """Write `path` whole or not at all; NaN and Inf are refused (ValueError), for JSON has neither.

    Indented for people, unless there are more than `INDENTED_ROWS` rows of details: then on one line.
    """
    if len(result.get("eval_result_details", ())) > INDENTED_ROWS:
        text = json.dumps(result, separators=(",", ":"), allow_nan=False)
    else:
        text = json.dumps(result, indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
