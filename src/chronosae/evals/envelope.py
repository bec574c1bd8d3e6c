"""SAEBench's result envelope, the same for every evaluation: its twelve keys, and a `chronosae` block beside them.

SAEBench's schemas allow further keys, but most of them no null where they want a number. There a metric that is
undefined is -1 under SAEBench's own name, as SAEBench writes it; it is null in `chronosae.metrics`, which is what to
read. `result_schema` is the JSON Schema of all our result files; SAEBench's own evaluations also validate against
SAEBench's schemas, which say more about their metrics.
"""

import json
import platform
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chronosae.autoencoders import Autoencoder
from chronosae.config.files import write_text
from chronosae.evals.bootstrap import MOST_UNDEFINED
from chronosae.evals.evaluation import EvalResult, Evaluation
from chronosae.version import __version__

Number = float | int | None
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class IntervalEntry(BaseModel):
    """Standard error and percentile interval of one metric."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    se: float
    low: float
    high: float
    n_units: int
    """How many documents, texts, facts ... were resampled."""
    undefined_share: Annotated[float, Field(ge=0, le=MOST_UNDEFINED)] = 0.0
    """Share of the resamples that leave the metric undefined; error and interval are over the others."""


class Intervals(BaseModel):
    """Bootstrap intervals by metric."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    level: Annotated[float, Field(gt=0, lt=1)]
    resampled: str
    """What was resampled."""
    metrics: dict[str, IntervalEntry]


class SubjectEntry(BaseModel):
    """The language model."""

    model_config = ConfigDict(extra="forbid")

    model: str
    fingerprint: str


class Block(BaseModel):
    """What we add to SAEBench's envelope. An evaluation may have more keys; its page names them."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, populate_by_name=True)

    version: Literal[1] = Field(alias="schema")
    """Of this format: a larger number comes from a newer version."""
    versions: dict[str, str]
    """Of what decides the numbers: chronosae, python, torch, transformers, numpy."""
    site: str
    subject: SubjectEntry
    seed: int
    """Of the autoencoder."""
    config_sha256: Sha256
    """Of the run's configuration."""
    data_sha256: Sha256
    """Of what was evaluated."""
    device: str
    wall_seconds: float
    config: dict[str, Any]
    """The evaluation's options."""
    metrics: dict[str, Number]
    """Every metric by its name; null: undefined. This is what to read."""
    undefined: list[str]
    """Names of the metrics that are null."""
    flags: list[str]
    """`name` or `name: explanation`."""
    intervals: Intervals


class ResultFile(BaseModel):
    """One autoencoder's result of one evaluation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    eval_type_id: str
    eval_config: dict[str, Any]
    """What SAEBench's own configuration would have had to be."""
    eval_id: str
    """The same for everything evaluated together."""
    datetime_epoch_millis: int
    eval_result_metrics: dict[str, dict[str, Number]]
    """Category -> metrics under SAEBench's names; undefined is null or, where SAEBench's schema wants a number, -1."""
    eval_result_details: list[dict[str, Any]]
    """A row a feature, data set, letter ..."""
    sae_bench_commit_hash: str
    sae_lens_id: str
    sae_lens_release_id: str
    sae_lens_version: str | None
    sae_cfg_dict: dict[str, Any]
    eval_result_unstructured: Any
    chronosae: Block


def result_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a result file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ResultFile.model_json_schema(by_alias=True)}


UNDEFINED = -1
# Our kinds of normalisation by SAELens' names for the same operations. Autoencoders take and give raw activations.
NORMALISATIONS = {"dataset": "expected_average_only_in", "token": "constant_norm_rescale", "none": "none"}
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
FIRST = ("site", "subject", "seed", "config_sha256", "data_sha256", "device", "matched_l0", "wall_seconds")
FIRST += ("evaluated_together", "config", "tokens", "metrics", "undefined", "flags", "intervals")
"""How the `chronosae` block begins; what else an evaluation has comes after."""


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

    Args:
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

    By convention `path` is `evals/<evaluation>/<name>_eval_results.json`. Indented for people, unless there are more
    than `INDENTED_ROWS` rows of details: then on one line.
    """
    if len(result.get("eval_result_details", ())) > INDENTED_ROWS:
        text = json.dumps(result, separators=(",", ":"), allow_nan=False)
    else:
        text = json.dumps(result, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def result_envelope(
    evaluation: Evaluation,
    name: str,
    sae: Autoencoder,
    site: str,
    result: EvalResult,
    provenance: Provenance,
    eval_id: str | None = None,
) -> dict[str, Any]:
    """The JSON of one autoencoder's result."""
    return envelope(
        eval_type_id=evaluation.eval_type_id,
        eval_config=result.eval_config,
        metrics=result.metrics,
        details=[dict(row) for row in result.details],
        unstructured=result.unstructured,
        sae_name=name,
        sae_cfg_dict=sae_cfg_dict(sae, site, result.context, provenance),
        block=_block(evaluation, site, result, provenance),
        eval_id=eval_id,
        undefined=evaluation.undefined,
    )


def _block(evaluation: Evaluation, site: str, result: EvalResult, provenance: Provenance) -> dict[str, Any]:
    """What stands under `chronosae`: every evaluation's keys in the order of `FIRST`, then its own."""
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
            **({} if result.resample_seed is None else {"seed": result.resample_seed}),
            "metrics": {metric: asdict(interval) for metric, interval in result.intervals.items()},
        },
        **result.block,
    }
    return {key: block[key] for key in FIRST if key in block} | block


def sae_cfg_dict(sae: Autoencoder, site: str, context: int, provenance: Provenance) -> dict[str, Any]:
    """An autoencoder in the fields of SAEBench's `CustomSAEConfig`, which its notebooks and leaderboards read.

    Args:
        context: length of the contexts it was evaluated on, 0 where they differ.
    """
    return {
        "model_name": provenance.subject,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "hook_layer": next((int(part) for part in site.split(".") if part.isdigit()), 0),
        "hook_name": site,
        "hook_head_index": None,
        "context_size": context,
        "architecture": sae.cfg.preset,
        "activation_fn_str": sae.cfg.activation.kind,
        "apply_b_dec_to_input": True,
        "normalize_activations": NORMALISATIONS[sae.cfg.normalisation.kind],
        "prepend_bos": provenance.prepend_bos,
        "dtype": str(sae.b_dec.dtype).removeprefix("torch."),
        "device": provenance.device,
        "dataset_path": provenance.dataset,
        "seqpos_slice": [None],
        "training_tokens": provenance.training_tokens,
        **(provenance.training or {}),
    }
