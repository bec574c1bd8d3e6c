"""What probes make of one set of vectors: right or wrong, for every number of features, task and test row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import f1_score
from torch import Tensor

from chronosae.evals.sparse_probing.full_width import full_width_correct
from chronosae.evals.sparse_probing.logistic import converged, fit_l2, fit_searched, roc_auc
from chronosae.evals.sparse_probing.options import SparseProbingOptions
from chronosae.evals.sparse_probing.selection import strongest
from chronosae.evals.sparse_probing.tasks import Part, Task

FULL = "test_accuracy"


def top(k: int, metric: str = "accuracy") -> str:
    """SAEBench's name of a metric of k-sparse probes, without `llm_` or `sae_`."""
    return f"top_{k}_test_{metric}"


@dataclass
class Scores:
    """Results of one reader (the raw activations, or an autoencoder) on one data set."""

    correct: dict[str, list[Bool[Tensor, " n"]]] = field(default_factory=dict)
    """Accuracy's name -> for each task, whether each of its test rows is told right."""
    further: dict[str, list[float]] = field(default_factory=dict)
    """Other metrics' names -> a value a task."""
    features: Int[Tensor, "tasks k"] | None = None
    """The features chosen, best first, for the largest k that was probed."""
    not_converged: int = 0
    """Fits that were stopped by their limit."""


def probe(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    tasks: Sequence[Task],
    options: SparseProbingOptions,
    generator: torch.Generator,
    *,
    device: torch.device | None = None,
    is_raw: bool = False,
) -> Scores:
    """Choose features on the training rows, fit, and test: for each task and each k that is at most the width.

    Arguments:
        train: one vector a text.
        device: where the full-width probe is fitted; that of `train` when absent.
        is_raw: the vectors are raw activations: sae-probes has a full-width probe only of those.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    scores = sparse_scores(train, test, tasks, options, seed)
    if options.protocol != "sae_probes":
        chosen_on = "test" if options.protocol == "saebench" else "validation"
        place = device or train.device
        scores.correct[FULL] = full_width_correct(train.to(place), test.to(place), tasks, chosen_on, generator)
    elif is_raw:
        for task in tasks:
            (x, y), (asked, answers) = _columns(train, task.train), _columns(test, task.test)
            fitted = fit_searched(x, y, l1=False, seed=seed)
            _record(scores, FULL, fitted, asked, answers)
            _record_further(scores, "test_{}", fitted, asked, answers)
    return scores


def sparse_scores(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    tasks: Sequence[Task],
    options: SparseProbingOptions,
    seed: int,
) -> Scores:
    """The part of `probe` that reads k features."""
    scores = Scores()
    ks = sorted(k for k in options.ks if k <= train.shape[1])
    if not ks:
        return scores
    theirs = options.protocol == "sae_probes"
    scores.features = strongest(train, [task.train for task in tasks], ks[-1], relative=theirs)
    for task, features in zip(tasks, scores.features, strict=True):
        (x, y), (asked, answers) = _columns(train, task.train, features), _columns(test, task.test, features)
        for k in ks:
            fitted = fit_searched(x[:, :k], y, l1=True, seed=seed) if theirs else fit_l2(x[:, :k], y)
            _record(scores, top(k), fitted, asked[:, :k], answers)
            if theirs:
                _record_further(scores, top(k, "{}"), fitted, asked[:, :k], answers)
    return scores


Rows = tuple[Any, Any]
"""Columns and labels as arrays."""


def _record(scores: Scores, name: str, fitted: Any, asked: Any, answers: Any) -> None:
    right = torch.from_numpy(fitted.predict(asked) == answers)
    scores.correct.setdefault(name, []).append(right)
    scores.not_converged += not converged(fitted)


def _record_further(scores: Scores, name: str, fitted: Any, asked: Any, answers: Any) -> None:
    """ROC AUC, and F1 averaged over both answers: what sae-probes has beside accuracy."""
    scores.further.setdefault(name.format("auc"), []).append(roc_auc(fitted, asked, answers))
    f1 = float(f1_score(answers, fitted.predict(asked), average="weighted"))
    scores.further.setdefault(name.format("f1"), []).append(f1)


def _columns(vectors: Float[Tensor, "rows width"], part: Part, features: Int[Tensor, " k"] | None = None) -> Rows:
    """The part's rows, of the chosen features alone, and its labels."""
    chosen = vectors[part.rows] if features is None else vectors[part.rows.unsqueeze(1), features]
    return np.ascontiguousarray(chosen.float().cpu().numpy()), part.labels.numpy()
