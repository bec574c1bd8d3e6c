"""Logistic regression on the features that separate the labels most, and on all of them."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from chronosae.evals.order_probing.features import Features

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse penalties among which the validation part chooses for a probe on all features."""
MAX_ITER = 1000


@dataclass(frozen=True)
class Split:
    """Rows for fitting, the part of them that chooses the penalty, and labels."""

    train: np.ndarray
    """Labels of the training items, bool."""
    validation: np.ndarray
    """Which training items choose the penalty, bool; whole groups."""
    test: np.ndarray
    """Labels of the test items, bool."""


def mean_difference(x: Features, y: np.ndarray) -> np.ndarray:
    """|mean over True - mean over False| of each column."""
    return np.abs(np.asarray(x[y].mean(axis=0)) - np.asarray(x[~y].mean(axis=0))).ravel()


def sparse_probe(train: Features, test: Features, split: Split, k: int) -> np.ndarray:
    """Which test items a probe on the `k` columns of largest mean difference gets right (penalty 1, as SAEBench).

    Columns are chosen on the training items alone; equal ones by number.
    """
    columns = np.argsort(-mean_difference(train, split.train), kind="stable")[:k]
    return _right(_dense(train[:, columns]), _dense(test[:, columns]), split, 1.0)


def full_probe(train: Features, test: Features, split: Split) -> np.ndarray:
    """Which test items a probe on all columns gets right; its penalty is the best on the validation items."""
    if isinstance(train, csr_array):
        # A column that is silent in training gets no weight whatever happens.
        used = np.flatnonzero(np.bincount(train.indices, minlength=_width(train)))
        train, test = csr_array(train[:, used]), csr_array(test[:, used])
    fit, held = ~split.validation, split.validation
    inner = Split(split.train[fit], np.zeros(int(fit.sum()), bool), split.train[held])
    if len(set(inner.train)) < 2 or not held.any():
        return _right(train, test, split, 1.0)
    scores = [float(_right(train[fit], train[held], inner, c).mean()) for c in STRENGTHS]
    return _right(train, test, split, STRENGTHS[int(np.argmax(scores))])


def _right(train: Features, test: Features, split: Split, strength: float) -> np.ndarray:
    """Fit on all training items, predict the test items."""
    if _width(train) == 0:
        return ~split.test
    if isinstance(train, np.ndarray):
        # The intercept isn't penalised: centring changes nothing but the speed.
        mean = train.mean(axis=0)
        train, test = train - mean, test - mean
    # One number for all columns, so that the penalty means the same in any units and features keep their proportions.
    scale = float(np.sqrt((train * train).mean())) or 1.0
    probe = LogisticRegression(C=strength, max_iter=MAX_ITER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train / scale, split.train)
    return np.asarray(probe.predict(test / scale) == split.test)


def _dense(x: Features) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.toarray()


def _width(x: Any) -> int:
    # scipy's annotations allow a matrix without a shape.
    return int(x.shape[1])
