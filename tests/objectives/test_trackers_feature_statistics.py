"""Firing frequency and importance against their formulas on dense codes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.objectives import FeatureImportance, FiringFrequency

D_SAE = 7


def random_codes(seed: int, batch: int = 3, pos: int = 5, slots: int = 3) -> tuple[SparseCodes, DenseCodes]:
    """The same codes, sparse (with unused slots) and dense."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, pos, D_SAE, generator=generator).topk(slots).indices.sort().values
    values = torch.rand(batch, pos, slots, generator=generator) - 0.3
    values = torch.where(values > 0, values, 0)
    sparse = SparseCodes(values=values, indices=torch.where(values != 0, indices, 0), n_features=D_SAE, scale=None)
    return sparse, DenseCodes(values=sparse.dense(), scale=None)


def random_mask(seed: int) -> Tensor:
    return torch.rand(3, 5, generator=torch.Generator().manual_seed(seed + 1000)) < 0.6


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.sampled_from([0, 1]))
def test_firing_frequency_is_the_corrected_average_and_the_exact_share(seeds, which):
    tracker, average, fired, tokens = FiringFrequency(D_SAE, alpha=0.2), torch.zeros(D_SAE), torch.zeros(D_SAE), 0
    for seed in seeds:
        codes, mask = random_codes(seed), random_mask(seed)
        tracker.update(codes[which], mask)
        on = (codes[1].values != 0) & mask[..., None]
        average = 0.8 * average + 0.2 * on[mask].float().mean(0)
        fired, tokens = fired + on.sum((0, 1)), tokens + int(mask.sum())
    torch.testing.assert_close(tracker.recent(), average / (1 - 0.8 ** len(seeds)))
    torch.testing.assert_close(tracker.overall(), fired / tokens)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.sampled_from([0, 1]))
def test_importance_is_the_average_length_of_what_a_feature_adds(seeds, which):
    tracker, average = FeatureImportance(D_SAE, alpha=0.3), torch.zeros(D_SAE)
    W_dec = torch.randn(D_SAE, 4, generator=torch.Generator().manual_seed(0))
    for seed in seeds:
        codes, mask = random_codes(seed), random_mask(seed)
        tracker.update(codes[which], W_dec, mask)
        added = codes[1].values[mask][..., None] * W_dec  # [tokens, d_sae, d_in]
        average = 0.7 * average + 0.3 * added.norm(dim=-1).mean(0)
    torch.testing.assert_close(tracker.value(), average / (1 - 0.7 ** len(seeds)))


def test_a_batch_without_unmasked_tokens_changes_nothing():
    firing, importance = FiringFrequency(D_SAE), FeatureImportance(D_SAE)
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    firing.update(random_codes(0)[0], nothing)
    importance.update(random_codes(0)[0], torch.ones(D_SAE, 2), nothing)
    assert firing.recent().eq(0).all() and firing.overall().eq(0).all() and importance.value().eq(0).all()


def test_statistics_resume_where_they_were_saved_and_refuse_other_shapes():
    whole, first, second = FiringFrequency(D_SAE), FiringFrequency(D_SAE), FiringFrequency(D_SAE)
    for tracker in (whole, first):
        tracker.update(random_codes(0)[0])
    second.load_state_dict(first.state_dict())
    for tracker in (whole, second):
        tracker.update(random_codes(1)[0])
    assert torch.equal(whole.recent(), second.recent()) and torch.equal(whole.overall(), second.overall())
    with pytest.raises(ValueError, match=r"average is \[8\]"):
        FiringFrequency(D_SAE + 1).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="holds"):
        first.load_state_dict({})


def test_statistics_hold_no_graph_move_and_stay_in_single_precision_at_least():
    tracker = FeatureImportance(D_SAE)
    codes = random_codes(0)[0]
    grown = SparseCodes(
        values=codes.values.clone().requires_grad_(), indices=codes.indices, n_features=D_SAE, scale=None
    )
    tracker.update(grown, torch.ones(D_SAE, 2, requires_grad=True))
    assert not tracker.average.requires_grad
    assert tracker.to("meta", torch.bfloat16).average.dtype == torch.float32
    assert tracker.average.is_meta
    assert FiringFrequency(D_SAE).to(dtype=torch.float64).average.dtype == torch.float64


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        FiringFrequency(D_SAE, alpha=alpha)
