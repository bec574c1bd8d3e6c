"""Logistic regression on a few columns, by scikit-learn."""

import warnings
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

Columns = NDArray[np.float32]
Labels = NDArray[np.bool_]

MAX_ITER = 1000
# sae-probes: strengths tried, strongest penalty last; the share of training rows, and the most, that chooses.
STRENGTHS = np.logspace(5, -5, 10)
CHOOSING_SHARE, MOST_CHOOSING = 0.2, 100


def fit_l2(x: Columns, labels: Labels) -> LogisticRegression:
    """SAEBench's settings: L2 with C = 1, at most 1,000 iterations."""
    return _fit(LogisticRegression(C=1.0, max_iter=MAX_ITER), x, labels)


def fit_searched(x: Columns, labels: Labels, *, l1: bool, seed: int) -> LogisticRegression:
    """sae-probes' procedure: C by ROC AUC on the last rows (a fifth, at most 100), then a fit on all rows.

    Arguments:
        x: rows in random order.
        l1: an L1 penalty (SAGA) in place of L2 (L-BFGS).
    """
    n = len(x) - min(int(CHOOSING_SHARE * len(x)), MOST_CHOOSING)
    scores = [roc_auc(_fit(_penalised(c, l1, seed), x[:n], labels[:n]), x[n:], labels[n:]) for c in STRENGTHS]
    return _fit(_penalised(STRENGTHS[int(np.argmax(scores))], l1, seed), x, labels)


def roc_auc(probe: LogisticRegression, x: Columns, labels: Labels) -> float:
    """Area under the ROC curve; 0.5 where the labels are all one."""
    if labels.all() or not labels.any():
        return 0.5
    return float(roc_auc_score(labels, probe.decision_function(x)))


def _penalised(c: float, l1: bool, seed: int) -> LogisticRegression:
    if not l1:
        return LogisticRegression(C=c, max_iter=MAX_ITER)
    # scikit-learn 1.8 moved the choice of the penalty to `l1_ratio`.
    modern = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
    penalty: dict[str, Any] = {"l1_ratio": 1.0} if modern else {"penalty": "l1"}
    return LogisticRegression(C=c, max_iter=MAX_ITER, solver="saga", random_state=seed, **penalty)


def _fit(probe: LogisticRegression, x: Columns, labels: Labels) -> LogisticRegression:
    # A fit that needs more iterations is reported (`converged`), not printed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(x, labels)


def converged(probe: LogisticRegression) -> bool:
    """The solver stopped by itself."""
    return bool((probe.n_iter_ < MAX_ITER).all())
