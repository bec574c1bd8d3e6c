"""The JSON Schema of our result files: SAEBench's envelope with the `chronosae` block, the same for every evaluation.

SAEBench's own evaluations also validate against SAEBench's schemas, which say more about their metrics.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chronosae.evals.bootstrap import MOST_UNDEFINED

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
