"""Every evaluation with options under which it takes seconds on the embedded model."""

from collections.abc import Iterator
from typing import Any

from chronosae.activations import SequenceBatch, heldout_batches
from chronosae.config import RunConfig
from chronosae.evals import EVALUATIONS, Evaluation, Heldout, Workbench
from chronosae.subject import Subject

SITE = "blocks.2.hook_resid_post"
SMALL: dict[str, dict[str, Any]] = {
    "core": {"tokens": 512, "behaviour_tokens": 256, "batch_sequences": 4},
    "sparse_probing": {"data": ["world/subject"], "k": [1, 5], "train_rows": 60, "test_rows": 40, "context": 32},
    "order_probing": {"data": ["world/who_pays"], "n_back": [3], "k": [1], "train": 60, "test": 40, "context": 48},
    "absorption": {
        "train_words": 96,
        "test_words": 48,
        "min_letters": 1,
        "probe_epochs": 3,
        "probe_steps": 5,
        "max_k": 2,
    },
    "scr": {"train_size": 60, "test_size": 40, "ns": [2], "probe_seeds": 1, "probe_epochs": 1, "context": 32},
    "tpp": {"train_size": 60, "test_size": 40, "ns": [2], "probe_seeds": 1, "probe_epochs": 1, "context": 32},
    "ravel": {"data": ["world/geography"], "train_pairs": 16, "test_pairs": 8, "steps": 2, "batch": 8},
    "unlearning": {
        "text_tokens": 600,
        "context": 32,
        "max_questions": 12,
        "kept_questions": ["world/history"],
        "retain_thresholds": [0.01],
        "n_features": [10],
        "multipliers": [25],
    },
}
"""Options with which each evaluation takes seconds; what isn't here needs more than this machine has."""
ALONE = {"autointerp"}
"""Evaluations that need an endpoint; their own tests serve one."""


CONTEXT = 32


def options(name: str) -> Evaluation:
    return EVALUATIONS[name].read(SMALL[name])


def workbench(subject: Subject) -> Workbench:
    """The embedded model with some of the world's text that no run trains on."""
    cfg = RunConfig.model_validate(
        {
            "subject": {"model": "world", "sites": [SITE]},
            "activations": {"context": CONTEXT},
            "saes": {"topk": {}},
        }
    )

    def batches(n_tokens: int, batch_sequences: int) -> Iterator[SequenceBatch]:
        return (batch[SITE] for batch in heldout_batches(cfg, subject, -(-n_tokens // CONTEXT), batch_sequences))

    return Workbench(subject, SITE, heldout=Heldout(batches, "world"))
