"""Lagged edges on planted true codes: found where they are, absent where they were destroyed or never were."""

import pytest
import torch
from causal_edges import chain_f1, counted, part, planted_chains, score, world

from chronosae.analysis import (
    LaggedCounts,
    disjoint_chains,
    lagged_edges,
    naive_interactions,
    prune_indirect,
    shift_features,
    shuffle_batch,
    shuffle_time,
    surprise_edges,
)
from chronosae.analysis.edges import EdgeSet, from_counts, from_tracker, regress
from chronosae.config import UserError
from chronosae.objectives import TemporalCorrelationTracker
from chronosae.objectives.history import history, same_document

SEEDS = (0, 1, 2)
FIRST_IS_FAST = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])]
F = 256


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_edges_and_chains_are_found_on_true_codes(seed):
    data = world("causal", seed)
    counts, true = counted(data.codes, data), set(data.edges)
    edges = lagged_edges(counts)
    found = score(edges, true)
    assert found.at_true_count >= 0.98 and found.precision >= 0.98 and found.recall >= 0.98
    assert found.at_true_count >= score(surprise_edges(counts, len(true)), true).at_true_count
    chains = planted_chains(list(data.edges))
    read = disjoint_chains(edges, [chain[0] for chain in chains], [chain[-1] for chain in chains])
    assert min(chain_f1(read, chains)) >= 0.98


@pytest.mark.parametrize("seed", FIRST_IS_FAST)
def test_nothing_is_found_once_time_is_destroyed(seed):
    data = world("causal", seed)
    for null in (
        shuffle_time(data.codes, data.mask, data.doc_ids, seed=seed),
        shift_features(data.codes, data.mask, data.doc_ids, seed=seed),
        shuffle_batch(data.codes, data.mask, seed=seed),
    ):
        edges = lagged_edges(counted(null, data)).above(0.1)
        assert len(edges) == 0 and edges.share_of_pairs() <= 0.01


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_persistence_and_topics_alone_give_no_edge(seed):
    data = world("causal_no_edges", seed)
    counts = counted(data.codes, data)
    assert len(lagged_edges(counts).above(0.1)) == 0
    # Significance alone cannot tell: its best "edges" look as sure as true ones.
    assert (surprise_edges(counts, 1000).t > 5).all()


def test_the_naive_rule_declares_every_pair_an_edge():
    data = world("causal", 0).rows(slice(0, 2))
    C = naive_interactions(data.codes, data.mask, data.doc_ids)
    assert (C > 0.1).float().mean() == 1.0


@pytest.mark.parametrize("seed", FIRST_IS_FAST)
def test_true_shortcuts_beside_a_chain_survive_pruning(seed):
    data = world("causal_shortcuts", seed)
    found = set(lagged_edges(counted(data.codes, data)).triples())
    assert sum(edge in found for edge in data.edges[-8:]) >= 7


@pytest.mark.parametrize("seed", FIRST_IS_FAST)
@pytest.mark.parametrize("cells", [2**16, pytest.param(2**18, marks=pytest.mark.slow)])
def test_bounded_memory_finds_what_exact_counting_finds(seed, cells):
    """Candidates chosen on the first half and measured on the second; 2^18 cells are exact, 2^16 hashed."""
    data = world("causal", seed)
    tracker = TemporalCorrelationTracker(F, 4, entries=32, sample_tokens=None, cells=cells)
    for step, start in enumerate(range(0, 400, 40)):
        rows = slice(start, start + 40)
        if start == 200:
            tracker.measure()
        tracker.update(part(data.codes, rows), data.mask[rows], data.doc_ids[rows], step=step)
    true = set(data.edges)
    exact = score(lagged_edges(counted(data.codes, data)), true)
    sketched = score(lagged_edges(tracker), true)
    assert sketched.at_true_count >= exact.at_true_count - 0.02
    assert sketched.precision >= 0.98


@pytest.mark.slow
def test_sampled_tokens_are_enough_when_there_are_enough_of_them():
    data = world("causal", 0)
    tracker = TemporalCorrelationTracker(F, 4, sample_tokens=1024)
    for step, start in enumerate(range(0, 400, 16)):
        rows = slice(start, start + 16)
        if start == 160:
            tracker.measure()
        tracker.update(part(data.codes, rows), data.mask[rows], data.doc_ids[rows], step=step)
    found = score(lagged_edges(tracker), set(data.edges))
    assert found.precision >= 0.95 and found.recall >= 0.95


def test_exact_counts_and_moments_of_the_same_candidates_agree():
    """The regression is one, whichever way its covariances were counted."""
    data = world("causal", 0, 100)
    (regressors,) = from_counts(counted(data.codes, data), candidates=32)
    tracker = TemporalCorrelationTracker(F, 4, sample_tokens=None)
    tracker.candidates.source.copy_(regressors.source[:, :32])
    tracker.candidates.lag.copy_(regressors.lag[:, :32])
    tracker.measure()
    valid = same_document(data.mask, data.doc_ids, 4)
    tracker.regressors.add(history(data.codes, valid, data.mask.nonzero()[:6400]))
    tracker.regressors.add(history(data.codes, valid, data.mask.nonzero()[6400:]))
    (measured,) = from_tracker(tracker.regressors)
    # The first four tokens of a sequence count in one and not in the other, hence the tolerance.
    torch.testing.assert_close(measured.covariance, regressors.covariance, atol=2e-3, rtol=0)
    both = torch.stack([regress(regressors)[0], regress(measured)[0]])
    frequent = regressors.fired > 200
    assert (both[0] - both[1])[frequent].abs().max() < 0.05


def test_ridge_matches_the_formula_target_by_target():
    data = world("causal", 0, 100)
    (regressors,) = from_counts(counted(data.codes, data), candidates=5)
    b, t = regress(regressors)
    for row in (0, 100, 200):
        S, r = regressors.covariance[row], regressors.with_target[row]
        Q = torch.linalg.inv(S + 1e-3 * torch.diag(S.diag()) + 1e-7 * torch.eye(len(S)))
        expected = Q @ r
        s2 = max(float(regressors.variance[row] - expected @ r), 1e-9)
        torch.testing.assert_close(b[row], expected)
        torch.testing.assert_close(t[row], expected / (s2 * Q.diag() / regressors.tokens).sqrt())


def edge_set(*edges: tuple[int, int, int, float]) -> EdgeSet:
    source, target, lag, weight = (torch.tensor(column) for column in zip(*edges, strict=True))
    ones = torch.ones(len(edges))
    return EdgeSet(source, target, lag, weight.float(), ones, ones.long(), d_sae=10)


def test_pruning_drops_what_goes_through_or_comes_from_a_third_feature():
    through = edge_set((0, 1, 1, 0.7), (1, 2, 2, 0.6), (0, 2, 3, 0.3), (0, 2, 2, 0.3))
    assert (0, 2, 3) not in prune_indirect(through, 4).triples() and (0, 2, 2) in prune_indirect(through, 4).triples()
    common = edge_set((5, 0, 1, 0.7), (5, 2, 3, 0.6), (0, 2, 2, 0.3))
    assert prune_indirect(common, 4).triples() == [(5, 0, 1), (5, 2, 3)]
    assert len(prune_indirect(common, 2)) == 3  # a lag of 3 is beyond a window of 2
    assert len(prune_indirect(edge_set((0, 1, 1, 0.7), (1, 2, 2, 0.6), (0, 2, 3, 0.4)), 4)) == 3


def test_edges_are_reported_strongest_first_with_one_lag_a_pair():
    edges = edge_set((0, 1, 1, 0.07), (0, 1, 2, 0.3), (2, 3, 1, 0.06), (4, 5, 1, 0.5))
    assert edges.best_lags().triples() == [(4, 5, 1), (0, 1, 2), (2, 3, 1)]
    assert edges.report() == {"strong_edges": 2, "candidate_edges": 4, "strong_share_of_pairs": 2 / 90}


def test_evidence_that_is_missing_is_named():
    tracker = TemporalCorrelationTracker(F)
    with pytest.raises(UserError, match=r"measure\(\)"):
        lagged_edges(tracker)
    tracker.measure()
    with pytest.raises(UserError, match="no token since"):
        lagged_edges(tracker)
    with pytest.raises(UserError, match="no token has been counted"):
        lagged_edges(LaggedCounts(F))
