"""Exact lagged counts against brute force, and what the nulls keep and destroy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.analysis import LaggedCounts, shift_features, shuffle_batch, shuffle_time
from chronosae.autoencoders import DenseCodes
from chronosae.config import UserError

F, WINDOW = 5, 3


def random_batch(seed: int, pos: int = 9):
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(2, pos, F, generator=generator)
    mask = torch.rand(2, pos, generator=generator) < 0.8
    starts = torch.rand(2, pos, generator=generator) < 0.2
    values = torch.where((z > 0.6) & mask[..., None], z, 0)
    return DenseCodes(values=values, scale=None), mask, starts.cumsum(1) % 2


def documents(mask, doc_ids):
    """Unmasked (row, position) of each document, by walking along the tokens."""
    found, last = [], None
    for row in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            here = (row, int(doc_ids[row, t]))
            if here != last or t == 0:
                found.append([])
            last = here
            if mask[row, t]:
                found[-1].append((row, t))
    return [document for document in found if document]


@given(st.integers(0, 300))
def test_lagged_counts_equal_brute_force(seed):
    codes, mask, doc_ids = random_batch(seed)
    counts = LaggedCounts(F, WINDOW)
    counts.update(codes, mask, doc_ids)
    together, source = torch.zeros(WINDOW + 1, F, F), torch.zeros(WINDOW + 1, F)
    target, pairs = torch.zeros(WINDOW + 1, F), torch.zeros(WINDOW + 1)
    on = codes.values != 0
    for document in documents(mask, doc_ids):
        for row, now in document:
            for _, past in document:
                if 0 <= now - past <= WINDOW:
                    together[now - past] += on[row, past][:, None] & on[row, now]
                    source[now - past] += on[row, past]
                    target[now - past] += on[row, now]
                    pairs[now - past] += 1
    assert torch.equal(counts.together, together)
    assert torch.equal(counts.source.float(), source) and torch.equal(counts.target.float(), target)
    assert torch.equal(counts.pairs.float(), pairs)


def test_lagged_covariance_is_that_of_the_activities():
    codes = random_batch(0, pos=40)[0]
    counts = LaggedCounts(F, WINDOW)
    counts.update(codes)
    on = (codes.values != 0).double()
    for lag in range(WINDOW + 1):
        past, now = on[:, : 40 - lag].reshape(-1, F), on[:, lag:].reshape(-1, F)
        expected = (past - past.mean(0)).T @ (now - now.mean(0)) / len(past)
        torch.testing.assert_close(counts.covariance()[lag], expected.float(), atol=1e-6, rtol=0)


@given(st.integers(0, 300))
def test_time_shuffle_moves_whole_tokens_within_their_document(seed):
    codes, mask, doc_ids = random_batch(seed)
    shuffled = shuffle_time(codes, mask, doc_ids, seed=seed).dense()
    for document in documents(mask, doc_ids):
        row, positions = document[0][0], [t for _, t in document]
        before, after = codes.values[row, positions], shuffled[row, positions]
        assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))
    assert torch.equal(shuffled[~mask], codes.values[~mask])


@given(st.integers(0, 300))
def test_circular_shift_rotates_each_feature_within_its_document(seed):
    codes, mask, doc_ids = random_batch(seed)
    shifted = shift_features(codes, mask, doc_ids, seed=seed).dense()
    for document in documents(mask, doc_ids):
        row, positions = document[0][0], [t for _, t in document]
        for feature in range(F):
            before, after = codes.values[row, positions, feature], shifted[row, positions, feature]
            assert any(torch.equal(before.roll(by), after) for by in range(len(positions)))


@given(st.integers(0, 300))
def test_batch_shuffle_keeps_every_token_of_the_batch(seed):
    codes, mask, _ = random_batch(seed)
    shuffled = shuffle_batch(codes, mask, seed=seed).dense()
    assert sorted(map(tuple, shuffled[mask].tolist())) == sorted(map(tuple, codes.values[mask].tolist()))


def test_nulls_depend_on_their_seed():
    codes, mask, doc_ids = random_batch(0, pos=60)
    for null in (shuffle_time, shift_features):
        first, again, other = (null(codes, mask, doc_ids, seed=seed).dense() for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_dictionaries_too_large_for_exact_counts_are_refused():
    with pytest.raises(UserError, match="TemporalCorrelationTracker"):
        LaggedCounts(5000)
