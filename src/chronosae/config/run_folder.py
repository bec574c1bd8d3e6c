"""What a run folder holds: the names of its files, and what stands in them. A run writes it, everything later reads it.

    config.yaml                                the configuration, resolved
    run.json                                   `RunRecord`: what runs, and how far it is
    metrics.jsonl                              a `MetricsLine` an autoencoder and step
    final_info.json                            `RunInfo`: the results
    notes.md                                   the results in words
    saes/NAME/                                 an autoencoder
    evals/EVALUATION/NAME_eval_results.json    `EvalFile`: a result in full
    checkpoints/latest.pt                      to resume from

Reading is tolerant: what is absent or of a wrong type is None or empty, and keys that we don't know are kept.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from chronosae.config.errors import UserError
from chronosae.config.files import read_lines, read_object

CONFIG, RUN, METRICS, FINAL, NOTES = "config.yaml", "run.json", "metrics.jsonl", "final_info.json", "notes.md"
CHECKPOINT = Path("checkpoints") / "latest.pt"
SAES, EVALS = "saes", "evals"
OWN = (CONFIG, RUN, METRICS, FINAL, NOTES, SAES, EVALS)
OWN += ("checkpoints", "activations", "figures", "tensorboard", "wandb")
"""All that a run writes; `--overwrite` removes these and nothing else."""
SCHEMA = 1


def is_run(folder: Path) -> bool:
    """`folder` holds a run, complete or not."""
    return (folder / RUN).is_file() or (folder / FINAL).is_file()


def result_file(folder: Path, evaluation: str, sae: str) -> Path:
    """Where the result of `evaluation` for the autoencoder `sae` stands."""
    return folder / EVALS / evaluation / f"{sae}_eval_results.json"


def number(value: Any) -> float | None:
    """`value` when it is a finite number (True isn't one), else None: what is undefined never becomes a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:  # an integer beyond float's range
        return None
    return value if math.isfinite(value) else None


def _integer(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else str(value) if value else None


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


Number = Annotated[float | None, PlainValidator(number)]
Integer = Annotated[int | None, PlainValidator(_integer)]
Text = Annotated[str | None, PlainValidator(_text)]
Texts = Annotated[list[str], PlainValidator(_texts)]
Items = Annotated[dict[str, Any], PlainValidator(_mapping)]


class _Lenient(BaseModel):
    """Base of what stands in the files."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, use_attribute_docstrings=True)

    def as_json(self) -> dict[str, Any]:
        """What the file holds: all that was set or read, in order."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def _called(name: str, default: Any) -> Any:
    """A field that the file calls `name`."""
    return Field(default=default, validation_alias=name, serialization_alias=name)


# For a field that holds another model; an empty one where the file holds something else.
Part = BeforeValidator(lambda value: value if isinstance(value, BaseModel) else _mapping(value))


class Seeds(_Lenient):
    """Where the randomness comes from."""

    data: Integer = None
    saes: Any = None


class SubjectRecord(_Lenient):
    """The language model."""

    model: Text = None
    fingerprint: Text = None
    n_layers: Integer = None
    vocab_size: Integer = None
    sites: Any = None


class CorpusRecord(_Lenient):
    """The text that was trained on."""

    text: Text = None
    """Its name, for people."""
    context: Integer = None
    """Tokens a sequence."""
    epochs: Number = None
    """How often it was read."""


class SAEResult(_Lenient):
    """One trained autoencoder."""

    name: str = Field(default="", exclude=True)
    """Its key: `topk`, or `topk@2` for a repeat with another seed."""
    preset: Annotated[str, PlainValidator(str)] = ""
    seed: Integer = None
    site: Annotated[str, PlainValidator(lambda value: str(value or "-"))] = "-"
    layer: Integer = None
    training_steps: Integer = None
    tokens: Integer = None
    final_loss: Number = None
    d_in: Integer = None
    d_sae: Integer = _called("dict_size", None)
    learning_rate: Number = None
    sparsity_penalty: Number = None
    """Weight of the penalty at the end; None for autoencoders whose sparsity isn't a penalty."""
    normalisation: Items = {}
    options: Items = {}
    """Of the preset."""
    flags: Texts = []
    by_evaluation: Items = _called("metrics", {})
    """Evaluation -> metrics by their flat names."""

    @property
    def base(self) -> str:
        """The name without `@2`: what repeats over seeds share."""
        return self.name.partition("@")[0]

    @property
    def target(self) -> float | None:
        """The number of active features asked for: k, or target_l0."""
        k = number(self.options.get("k"))
        return k if k is not None else number(self.options.get("target_l0"))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics that are finite numbers: core's by their flat names, those of others as `evaluation.metric`."""
        found = {key: number(value) for key, value in _mapping(self.by_evaluation.get("core")).items()}
        # Older runs hold no novel_l0; nothing in them predicts, so all of their L0 is novel.
        found.setdefault("novel_l0", found.get("l0"))
        for evaluation, metrics in self.by_evaluation.items():
            if evaluation != "core":
                found |= {f"{evaluation}.{key}": number(value) for key, value in _mapping(metrics).items()}
        return {key: value for key, value in found.items() if value is not None}


class RunInfo(_Lenient):
    """A run in one file: final_info.json."""

    version: Integer = _called("schema", None)
    """Of this format: a larger number comes from a newer version."""
    name: Text = None
    description: Text = None
    saes: dict[str, SAEResult]
    subject: Annotated[SubjectRecord, Part] = SubjectRecord()
    corpus: Annotated[CorpusRecord, Part] = CorpusRecord()
    config_sha256: Text = None
    versions: Items = {}
    machine: Items = {}
    seeds: Annotated[Seeds, Part] = Seeds()
    started: Text = None
    """UTC, ISO 8601."""
    wall_seconds: Number = None
    flags: Texts = []
    """What a reader of the whole run should know, beside the flags of each autoencoder."""


class RunRecord(_Lenient):
    """What runs and how far it is: run.json."""

    version: Integer = _called("schema", None)
    status: Text = None
    """running, interrupted or complete."""
    name: Text = None
    config_sha256: Text = None
    subject_fingerprint: Text = None
    seeds: Annotated[Seeds, Part] = Seeds()
    versions: Items = {}
    machine: Items = {}
    started: Text = None


class MetricsLine(_Lenient):
    """One autoencoder at one step of training."""

    sae: Annotated[str, PlainValidator(str)] = "None"
    step: Integer = None
    tokens: Number = None
    """Seen so far."""
    loss: Number = None
    l0: Number = None
    dead: Number = None
    """Features that haven't fired for long."""
    sparsity_penalty: Number = None


class EvalFile(_Lenient):
    """A result in full, as far as reports read it; `evals.schema` has all of it."""

    rows: Annotated[list[Any], PlainValidator(lambda value: value or [])] = _called("eval_result_details", [])
    block: Items = _called("chronosae", {})

    @property
    def pca_curve(self) -> dict[int, float]:
        """Number of principal components -> share of the variance they explain."""
        curve = _mapping(_mapping(self.block.get("pca")).get("curve"))
        points = {int(k): share for k, value in curve.items() if k.isdecimal() and (share := number(value)) is not None}
        return dict(sorted(points.items()))

    @property
    def densities(self) -> tuple[float, ...]:
        """Share of tokens on which each feature fires."""
        found = (number(row.get("feature_density")) for row in self.rows if isinstance(row, dict))
        # -1 is SAEBench's mark of an undefined number
        return tuple(density for density in found if density is not None and density >= 0)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each metric over resampled examples."""
        found = {}
        for metric, interval in _mapping(_mapping(self.block.get("intervals")).get("metrics")).items():
            low, high = number(_mapping(interval).get("low")), number(_mapping(interval).get("high"))
            if low is not None and high is not None:
                found[metric] = (low, high)
        return found


def read_record(folder: Path) -> RunRecord:
    """The run's run.json; `UserError` when it is missing or damaged."""
    return RunRecord.model_validate(read_object(folder / RUN))


def read_info(folder: Path) -> RunInfo:
    """The run's final_info.json.

    Raises:
        UserError: it is missing, damaged, or written by a newer version.
    """
    path = folder / FINAL
    info = read_object(path)
    if (_integer(info.get("schema")) or 0) > SCHEMA:
        raise UserError(f"{path}: written by a newer ChronoSAE (schema {info['schema']}); upgrade to read it")
    saes = info.get("saes")
    if not isinstance(saes, dict):
        raise UserError(f"{path}: damaged, holds no `saes`; restore it or run again with --overwrite")
    for name, entry in saes.items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}: damaged, saes.{name} is not an object; restore it or run again with --overwrite")
    return RunInfo.model_validate({**info, "saes": {name: _named(name, entry) for name, entry in saes.items()}})


def _named(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "name": name, "preset": entry.get("preset") or name.partition("@")[0]}


def read_metrics(folder: Path) -> dict[str, list[MetricsLine]]:
    """Lines of metrics.jsonl by autoencoder, in the order written; empty when there is no such file.

    Raises:
        UserError: naming the line that is damaged.
    """
    path = folder / METRICS
    lines: dict[str, list[MetricsLine]] = {}
    for row in read_lines(path) if path.is_file() else []:
        line = MetricsLine.model_validate(row)
        lines.setdefault(line.sae, []).append(line)
    return lines


def read_result(path: Path) -> EvalFile:
    """An evaluation's file; `UserError` when it is damaged."""
    return EvalFile.model_validate(read_object(path))
