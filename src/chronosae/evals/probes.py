"""What probes share: one vector a text (codes and raw activations, pooled), and scikit-learn's logistic regression."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

MAX_ITER = 1000
"""Of a logistic regression; SAEBench's."""

Pooling = Literal["mean", "max", "last"]
RAW = ""
"""Key of the raw activations: no autoencoder has an empty name."""


def pooled(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], pooling: Pooling, what: str
) -> dict[str, Float[Tensor, "rows width"]]:
    """Pooled codes of each autoencoder by name, and pooled raw activations under `RAW`; float32 on the CPU.

    Encoding sees whole contexts; pooling then takes the unmasked tokens. A row without an unmasked token is all zero.
    """
    widths = {RAW: bench.subject.info.d_model} | {name: sae.d_sae for name, sae in saes.items()}
    found = {name: torch.zeros(len(rows), width) for name, width in widths.items()}
    for part, codes in bench.encoded(rows, saes, what):
        mask = part.batch.mask
        found[RAW][part.index] = pool_dense(part.batch.acts, mask, pooling).cpu()
        for name, code in codes.items():
            found[name][part.index] = pool_codes(code, mask.to(code.values.device), pooling).float().cpu()
    return found


def pool_codes(codes: Codes, mask: Bool[Tensor, "batch pos"], pooling: Pooling) -> Float[Tensor, "batch d_sae"]:
    """Codes pooled over the unmasked positions of each sequence, without a dense tensor of all positions."""
    if not isinstance(codes, SparseCodes):
        return pool_dense(codes.values, mask, pooling)
    weights = last_only(mask) if pooling == "last" else mask
    values = torch.where(weights.unsqueeze(-1), codes.values, 0.0).flatten(1)
    out = values.new_zeros(len(values), codes.d_sae)
    indices = codes.indices.flatten(1)
    if pooling == "max":
        return out.scatter_reduce_(1, indices, values, "amax", include_self=True)
    out.scatter_add_(1, indices, values)
    return out / mask.sum(1, keepdim=True).clamp(min=1) if pooling == "mean" else out


def pool_dense(
    values: Float[Tensor, "batch pos width"], mask: Bool[Tensor, "batch pos"], pooling: Pooling
) -> Float[Tensor, "batch width"]:
    """The same for vectors at every position. `max` is over unmasked tokens, whatever the sign."""
    if pooling == "max":
        largest = values.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
        return torch.where(mask.any(1, keepdim=True), largest, 0.0)
    weights = (last_only(mask) if pooling == "last" else mask).to(values.dtype)
    total = (values.masked_fill(~mask.unsqueeze(-1), 0.0) * weights.unsqueeze(-1)).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1) if pooling == "mean" else total


def last_only(mask: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """The last unmasked position of each sequence."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def fit_logistic(
    x: Any, labels: Any, strength: float = 1.0, *, max_iter: int = MAX_ITER, **more: Any
) -> LogisticRegression:
    """A logistic regression; L2 with C = 1 and at most `MAX_ITER` iterations is SAEBench's.

    Args:
        x: a row an example, dense or a scipy.sparse array.
        strength: C, the inverse of the penalty's weight.
        max_iter: iterations after which the solver is stopped.
        more: other options of scikit-learn's, such as the penalty.
    """
    probe = LogisticRegression(C=strength, max_iter=max_iter, **more)
    # A fit that needs more iterations is reported (`converged`), not printed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(x, labels)


def converged(probe: LogisticRegression) -> bool:
    """The solver stopped by itself."""
    return bool((probe.n_iter_ < MAX_ITER).all())


def roc_auc(probe: LogisticRegression, x: Any, labels: Any) -> float:
    """Area under the ROC curve; 0.5 where the labels are all one."""
    if labels.all() or not labels.any():
        return 0.5
    return float(roc_auc_score(labels, probe.decision_function(x)))
