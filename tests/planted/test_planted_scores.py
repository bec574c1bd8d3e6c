"""Scores against planted truth equal their dense definitions, and say so when there is nothing to score."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.planted import PLANTED, generate
from chronosae.planted.scores import (
    Matching,
    lag1_autocorrelation,
    match,
    mcc,
    position_mass,
    position_weights,
    slow_feature_recovery,
    support_f1,
)

F, D_SAE = 5, 7
seeds = st.integers(0, 10_000)


def dense(generator: torch.Generator, width: int, rate: float = 0.4, shape: tuple[int, int] = (3, 8)) -> Tensor:
    values = torch.rand(*shape, width, generator=generator, dtype=torch.float64) + 0.1
    return values * (torch.rand(*shape, width, generator=generator) < rate)


def wrap(z: Tensor) -> DenseCodes:
    return DenseCodes(values=z, scale=None)


def sparse(z: Tensor) -> SparseCodes:
    """One slot a feature, those that do not fire empty."""
    indices = torch.where(z != 0, torch.arange(z.shape[-1]), 0)
    return SparseCodes(values=z, scale=None, indices=indices, n_features=z.shape[-1])


def some_matching(generator: torch.Generator) -> Matching:
    latent = torch.randperm(D_SAE, generator=generator)[:F]
    latent[1] = -1
    return Matching(latent, torch.rand(F, generator=generator, dtype=torch.float64), D_SAE)


def by_feature(z: Tensor, matching: Matching) -> Tensor:
    """Codes of the matched latents in the order of the planted features, 0 without a latent."""
    return z[..., matching.latent.clamp_min(0)] * (matching.latent >= 0)


def identity(width: int) -> Matching:
    return Matching(torch.arange(width), torch.ones(width, dtype=torch.float64), width)


@given(seed=seeds)
def test_the_matching_is_the_best_of_all_assignments(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W_dec, dictionary = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    cosine = torch.nn.functional.cosine_similarity(dictionary[:, None], W_dec[None], dim=-1)
    best = max(sum(cosine[f, latent] for f, latent in enumerate(p)) for p in itertools.permutations(range(5), 4))
    matching = match(W_dec, dictionary)
    assert mcc(matching) == pytest.approx(float(best) / 4, abs=1e-5)
    assert len(set(matching.latent.tolist())) == 4


def test_a_shuffled_and_scaled_dictionary_is_matched_exactly() -> None:
    dictionary = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    matching = match(3 * dictionary[order], dictionary)
    assert torch.equal(order[matching.latent], torch.arange(20)) and mcc(matching) == pytest.approx(1)
    assert torch.equal(matching.latent[matching.feature_of()], torch.arange(20))


def test_features_without_a_latent_count_zero_in_mcc_and_opposite_directions_do_not_match() -> None:
    matching = match(torch.eye(4)[:2], torch.eye(4))
    assert matching.latent.tolist().count(-1) == 2 and mcc(matching) == pytest.approx(0.5)
    assert mcc(match(-torch.eye(1), torch.eye(1))) == -1
    with pytest.raises(ValueError, match="NaN"):
        match(torch.full((2, 2), torch.nan), torch.eye(2))


@given(seed=seeds)
def test_support_scores_equal_their_dense_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, truth, matching = dense(generator, D_SAE), dense(generator, F), some_matching(generator)
    mask = torch.rand(3, 8, generator=generator) < 0.8
    mask[0, 0], truth[0, 0] = True, 1.0
    features = torch.tensor([0, 1, 3])
    found = (by_feature(z, matching) != 0)[mask][:, features]
    true = (truth != 0)[mask][:, features]
    hits, n_found, n_true = (found & true).sum(0), found.sum(0), true.sum(0)
    for codes in (wrap(z), sparse(z)):
        score = support_f1(codes, sparse(truth), matching, features, mask)
        assert score.precision == (pytest.approx(float(hits.sum() / n_found.sum())) if n_found.any() else None)
        assert score.recall == pytest.approx(float(hits.sum() / n_true.sum()))
        assert score.f1 == pytest.approx(float(2 * hits.sum() / (n_found.sum() + n_true.sum())))
        assert score.macro_f1 == pytest.approx(float((2 * hits / (n_found + n_true)).mean()))
        assert score.macro_recall == pytest.approx(float((hits / n_true).mean()))
        assert score.macro_precision == pytest.approx(float((hits / n_found.clamp_min(1)).mean()))


@pytest.mark.parametrize("name", PLANTED)
def test_the_truth_scores_perfectly_against_itself(name: str) -> None:
    data = generate(PLANTED[name], 20, seed=0)
    matching = match(data.dictionary, data.dictionary)
    score = support_f1(data.codes, data.codes, matching)
    assert mcc(matching) == pytest.approx(1)
    assert (score.precision, score.recall, score.f1, score.macro_f1) == (1, 1, 1, 1)


def test_a_latent_that_never_fires_has_no_precision_and_no_recall() -> None:
    truth = torch.ones(1, 4, 2)
    score = support_f1(wrap(torch.zeros(1, 4, 2)), wrap(truth), identity(2))
    assert score.precision is None and score.recall == 0 and score.f1 == 0 and score.macro_precision == 0
    with pytest.raises(ValueError, match="none of the planted features fires"):
        support_f1(wrap(truth), wrap(torch.zeros(1, 4, 2)), identity(2))
    with pytest.raises(ValueError, match="NaN"):
        support_f1(wrap(truth * torch.nan), wrap(truth), identity(2))
    with pytest.raises(ValueError, match="tokens"):
        support_f1(wrap(truth[:, :2]), wrap(truth), identity(2))
    with pytest.raises(ValueError, match="the matching is not between"):
        support_f1(wrap(truth), wrap(truth), identity(3))


@given(seed=seeds)
def test_slow_feature_recovery_equals_its_dense_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, truth, matching = dense(generator, D_SAE), dense(generator, F), some_matching(generator)
    mask = torch.rand(3, 8, generator=generator) < 0.8
    truth[..., 2] = 1.0  # never varies: no correlation to judge
    features = torch.arange(F)
    mask[0, :2], truth[0, 0, [0, 1, 3, 4]], truth[0, 1, [0, 1, 3, 4]] = True, 0.0, 1.0
    found, true = by_feature(z, matching)[mask].numpy(), truth[mask].numpy()
    both = [np.corrcoef(found[:, f], true[:, f])[0, 1] if found[:, f].std() else 0 for f in range(F) if f != 2]
    score = slow_feature_recovery(wrap(z), sparse(truth), matching, features, mask, min_cosine=0.5)
    assert score.correlation == pytest.approx(np.mean(both), abs=1e-9)
    assert score.share_matched == pytest.approx(float((matching.cosine >= 0.5).double().mean()))
    assert score.f1 == support_f1(wrap(z), wrap(truth), matching, features, mask).f1


def test_slow_feature_recovery_needs_features() -> None:
    z = wrap(torch.ones(1, 4, 2))
    with pytest.raises(ValueError, match="no planted feature given"):
        slow_feature_recovery(z, z, identity(2), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="varies"):
        slow_feature_recovery(z, z, identity(2), torch.arange(2))


@given(seed=seeds)
def test_position_mass_is_the_share_inside_the_planted_positions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, matching = dense(generator, D_SAE), some_matching(generator)
    mask = torch.rand(3, 8, generator=generator) < 0.7
    positions = torch.randint(0, 6, (3, 8), generator=generator)
    profile = torch.rand(F, 6, generator=generator) < 0.5
    profile[3], profile[0, 0] = True, False  # feature 3 fires everywhere: it is not judged
    weights = position_weights(sparse(z), positions, 6, mask)
    expected = torch.stack([z[mask & (positions == p)].sum(0) for p in range(6)])
    torch.testing.assert_close(weights, expected)
    shares = []
    for f in range(F):
        w = expected[:, matching.latent[f]] * (matching.latent[f] >= 0)
        if not profile[f].all():
            shares.append(float(w[profile[f]].sum() / w.sum()) if w.sum() else 0.0)
    assert position_mass(weights, matching, profile) == pytest.approx(np.mean(shares))


def test_position_mass_is_one_for_the_truth_and_the_share_of_positions_for_a_flat_mask() -> None:
    data = generate(PLANTED["positional"], 50, seed=0)
    matching = match(data.dictionary, data.dictionary)
    weights = position_weights(data.codes, data.positions, 64, data.mask)
    assert position_mass(weights, matching, data.profile) == pytest.approx(1)
    assert position_mass(torch.ones(64, 192), matching, data.profile) == pytest.approx(1 / 8)


def test_position_mass_refuses_what_is_no_mass() -> None:
    profile = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match="not negative"):
        position_mass(-torch.ones(2, 2), identity(2), profile)
    with pytest.raises(ValueError, match="weights"):
        position_mass(torch.ones(3, 2), identity(2), profile)
    with pytest.raises(ValueError, match="depends on position"):
        position_mass(torch.ones(2, 2), identity(2), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="positions must lie"):
        position_weights(wrap(torch.ones(1, 2, 2)), torch.tensor([[0, 2]]), 2)


@given(seed=seeds)
def test_autocorrelation_is_pearsons_over_neighbours_of_one_document(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = dense(generator, 4, rate=0.6, shape=(4, 12))
    z[..., 2] = 0.0
    mask = torch.rand(4, 12, generator=generator) < 0.9
    doc_ids = (torch.rand(4, 12, generator=generator) < 0.2).cumsum(1)
    linked = mask[:, :-1] & mask[:, 1:] & (doc_ids[:, :-1] == doc_ids[:, 1:])
    before, after = z[:, :-1][linked].numpy(), z[:, 1:][linked].numpy()
    chosen = [f for f in range(4) if f != 2]
    expected = [np.corrcoef(before[:, f], after[:, f])[0, 1] for f in chosen]
    result = lag1_autocorrelation(sparse(z), mask, doc_ids)
    assert result.features.tolist() == chosen
    np.testing.assert_allclose(result.values.numpy(), expected, atol=1e-9)
    assert result.mean == pytest.approx(np.mean(expected))


def test_autocorrelation_of_codes_that_do_not_vary_is_an_error() -> None:
    with pytest.raises(ValueError, match="no feature varies"):
        lag1_autocorrelation(wrap(torch.zeros(2, 5, 3)))
    with pytest.raises(ValueError, match="no feature varies"):
        lag1_autocorrelation(wrap(torch.rand(5, 1, 3)))
