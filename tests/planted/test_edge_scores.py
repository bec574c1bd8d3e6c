"""Edge scores equal their definitions over all pairs of candidates, ties and undeclared edges included."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.planted.edge_scores import average_precision, edge_auroc, precision_at, set_precision_recall
from chronosae.planted.scores import Matching

LAGS, WIDTH = 2, 4
TRUE = [(0, 1, 1), (1, 2, 2), (3, 0, 1), (2, 2, 1)]
"""The last is a self-edge, which counts nowhere."""


def some_scores(seed: int) -> Tensor:
    """Few distinct values, so that ties are common."""
    return torch.randint(0, 5, (LAGS, WIDTH, WIDTH), generator=torch.Generator().manual_seed(seed)).double()


def candidates() -> list[tuple[int, int, int]]:
    triples = itertools.product(range(WIDTH), range(WIDTH), range(1, LAGS + 1))
    return [edge for edge in triples if edge[0] != edge[1]]


def score_of(scores: Tensor, edge: tuple[int, int, int]) -> float:
    source, target, lag = edge
    return float(scores[lag - 1, target, source])


@given(seed=st.integers(0, 10_000))
def test_auroc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    scores = some_scores(seed)
    right = [score_of(scores, e) for e in TRUE[:3]]
    wrong = [score_of(scores, e) for e in candidates() if e not in TRUE]
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    assert edge_auroc(scores, TRUE) == pytest.approx(np.mean(pairs))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30))
def test_precision_at_n_is_its_mean_over_orders_of_the_ties(seed: int, n: int) -> None:
    scores, rng = some_scores(seed), np.random.default_rng(seed)
    value = np.array([score_of(scores, e) for e in candidates()])
    is_true = np.array([e in TRUE for e in candidates()])
    runs = [is_true[np.lexsort((rng.random(len(value)), -value))][:n].sum() / n for _ in range(400)]
    assert precision_at(scores, TRUE, n) == pytest.approx(np.mean(runs), abs=0.06)


@given(seed=st.integers(0, 10_000))
def test_average_precision_steps_through_the_distinct_scores(seed: int) -> None:
    scores = some_scores(seed)
    value = np.array([score_of(scores, e) for e in candidates()])
    is_true = np.array([e in TRUE for e in candidates()])
    total, recall = 0.0, 0.0
    for threshold in sorted(set(value), reverse=True):
        kept = value >= threshold
        now = is_true[kept].sum() / is_true.sum()
        total += (now - recall) * is_true[kept].mean()
        recall = now
    assert average_precision(scores, TRUE) == pytest.approx(total)


@given(seed=st.integers(0, 10_000))
def test_a_mapping_of_all_candidates_scores_as_the_tensor_does(seed: int) -> None:
    scores = some_scores(seed)
    mapping = {edge: score_of(scores, edge) for edge in candidates()}
    assert edge_auroc(mapping, TRUE, n_candidates=len(mapping)) == pytest.approx(edge_auroc(scores, TRUE))
    assert average_precision(mapping, TRUE) == pytest.approx(average_precision(scores, TRUE))
    assert precision_at(mapping, TRUE, 5) == pytest.approx(precision_at(scores, TRUE, 5))


def test_undeclared_edges_share_the_lowest_rank() -> None:
    mapping = {(0, 1, 1): 2.0, (0, 2, 1): 1.0}
    scores = torch.zeros(LAGS, WIDTH, WIDTH)
    scores[0, 1, 0], scores[0, 2, 0] = 2.0, 1.0
    assert edge_auroc(mapping, TRUE, n_candidates=24) == pytest.approx(edge_auroc(scores, TRUE))
    assert precision_at(mapping, TRUE, 4) == 0.25
    assert average_precision(mapping, TRUE) == pytest.approx(1 / 3)


def test_true_edges_are_sought_at_the_latents_of_their_ends() -> None:
    matching = Matching(torch.tensor([2, 0, 1, -1]), torch.tensor([1.0, 0.95, 0.5, 0.0]).double(), 4)
    found = {(2, 0, 1), (0, 1, 2), (3, 1, 1)}
    score = set_precision_recall(found, TRUE, matching)
    assert (score.precision, score.recall, score.n_found, score.n_true) == (2 / 3, 2 / 3, 3, 3)
    assert score.recoverable_recall == 1.0
    scores = torch.zeros(LAGS, WIDTH, WIDTH)
    for source, target, lag in found:
        scores[lag - 1, target, source] = 1.0
    assert precision_at(scores, TRUE, 3, matching) == pytest.approx(2 / 3)
    # One of 22 wrong candidates ties with the two found; the true edge without a latent is below all.
    assert edge_auroc(scores, TRUE, matching) == pytest.approx(2 * 21.5 / (3 * 22))


def test_a_true_edge_at_a_lag_that_was_not_looked_at_counts_as_missed() -> None:
    scores = torch.zeros(1, WIDTH, WIDTH)
    scores[0, 1, 0] = scores[0, 0, 3] = 1.0
    assert edge_auroc(scores, TRUE) == pytest.approx(2 / 3)
    assert average_precision(scores, TRUE) == pytest.approx(2 / 3)


def test_an_edge_must_have_the_right_direction_and_lag() -> None:
    score = set_precision_recall([(1, 0, 1), (0, 1, 2), (0, 1, 1)], TRUE)
    assert score.precision == pytest.approx(1 / 3) and score.recall == pytest.approx(1 / 3)
    assert score.recoverable_recall is None


def test_nothing_declared_has_no_precision() -> None:
    score = set_precision_recall([], TRUE)
    assert score.precision is None and score.recall == 0
    assert precision_at({}, TRUE, 3) == 0 and average_precision({}, TRUE) == 0
    assert edge_auroc({}, TRUE, n_candidates=24) == 0.5


def test_edge_scores_that_cannot_be_computed_say_why() -> None:
    with pytest.raises(ValueError, match="no true edge"):
        edge_auroc(torch.zeros(1, 3, 3), [(1, 1, 1)])
    with pytest.raises(ValueError, match="NaN"):
        average_precision(torch.full((1, 3, 3), torch.nan), [(0, 1, 1)])
    with pytest.raises(ValueError, match="n_candidates"):
        edge_auroc({(0, 1, 1): 1.0}, [(0, 1, 1)])
    with pytest.raises(ValueError, match="cannot hold"):
        edge_auroc({(0, 1, 1): 1.0}, [(0, 1, 1)], n_candidates=1)
    with pytest.raises(ValueError, match="n must be"):
        precision_at(torch.zeros(1, 3, 3), [(0, 1, 1)], 0)
