"""Which features stand for a letter: ranked by an L1 probe on codes, as many as raise F1 enough."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from chronosae.autoencoders import SparseCodes


class SparseProbes(NamedTuple):
    """For each letter and k from 1 to K: what a logistic regression on the letter's k leading features says."""

    features: Int[Tensor, "letters K"]
    """Leading features of each letter, the first the most telling."""
    says: Bool[Tensor, "words letters K"]
    """Test words that the probe with k features (index k - 1) takes for the letter's."""


def leading_features(
    weight: Float[Tensor, "d_sae letters"], k: int, allowed: Bool[Tensor, " d_sae"] | None = None
) -> Int[Tensor, "letters K"]:
    """The features of largest weight, sign and all: features that speak for the letter, not against it.

    At most `k`, and no more than are allowed.
    """
    if allowed is not None:
        weight = weight.masked_fill(~allowed.unsqueeze(1), -torch.inf)
        k = min(k, int(allowed.sum()))
    return weight.T.topk(min(k, len(weight)), dim=1).indices


def sparse_probes(
    features: Int[Tensor, "letters K"],
    train: SparseCodes,
    train_letters: Int[Tensor, " words"],
    test: SparseCodes,
) -> SparseProbes:
    """Fit scikit-learn's balanced logistic regression (L2, C = 1) to each letter's first k features, for every k."""
    n_letters, largest = features.shape
    says = torch.zeros(len(test.values), n_letters, largest, dtype=torch.bool)
    for letter in range(n_letters):
        x, y = columns(train, features[letter]).numpy(), (train_letters == letter).numpy()
        asked = columns(test, features[letter]).numpy()
        for k in range(1, largest + 1):
            says[:, letter, k - 1] = torch.from_numpy(_fit(x[:, :k], y).predict(asked[:, :k]))
    return SparseProbes(features, says)


def _fit(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # As in SAEBench, 500 iterations have to do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=500, class_weight="balanced").fit(x, y)


def columns(codes: SparseCodes, features: Int[Tensor, " K"]) -> Float[Tensor, "words K"]:
    """Codes of some features."""
    return torch.stack([codes.at(int(feature)) for feature in features], 1)


def choose_k(scores: Float[Tensor, "*resamples letters K"], jump: float) -> Int[Tensor, "*resamples letters"]:
    """How many features are split features: further ones as long as each raises F1 by more than `jump`."""
    best = torch.full_like(scores[..., 0], -torch.inf)
    k = torch.zeros_like(best, dtype=torch.long)
    going = torch.ones_like(best, dtype=torch.bool)
    for score in scores.unbind(-1):
        going = going & (score > best + jump)
        k = k + going
        best = torch.where(going, score, best)
    return k
