"""Typed, validated configuration. Knows nothing of torch, so that a wrong key is reported in milliseconds."""

from chronosae.config.errors import UserError
from chronosae.config.load import canonical_json, config_sha256, load_config, read_yaml, to_yaml, validate
from chronosae.config.schema import (
    ActivationsConfig,
    CoreEvalConfig,
    CorpusConfig,
    EvalsConfig,
    LoggingConfig,
    RunConfig,
    Section,
    SourceConfig,
    SubjectConfig,
    TrainingConfig,
)

__all__ = [
    "ActivationsConfig",
    "CoreEvalConfig",
    "CorpusConfig",
    "EvalsConfig",
    "LoggingConfig",
    "RunConfig",
    "Section",
    "SourceConfig",
    "SubjectConfig",
    "TrainingConfig",
    "UserError",
    "canonical_json",
    "config_sha256",
    "load_config",
    "read_yaml",
    "to_yaml",
    "validate",
]
