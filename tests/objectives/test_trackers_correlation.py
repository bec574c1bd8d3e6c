"""The correlation tracker against brute force on dense codes, and its promises: bounded, unbiased, no graph."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.config import UserError
from chronosae.kernels import dense_only
from chronosae.objectives import RegressorCounts, TemporalCorrelationTracker, as_slots, same_document
from chronosae.objectives.history import history, sample_tokens

F, WINDOW = 6, 3


def random_codes(seed: int, batch: int = 3, pos: int = 12) -> DenseCodes:
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(batch, pos, F, generator=generator)
    return DenseCodes(values=torch.where(z > 0.6, z, 0), scale=None)


def random_layout(seed: int, batch: int = 3, pos: int = 12) -> tuple[Tensor, Tensor]:
    """Mask and documents; ids come back, as they may when documents are packed."""
    generator = torch.Generator().manual_seed(seed + 999)
    mask = torch.rand(batch, pos, generator=generator) < 0.85
    starts = torch.rand(batch, pos, generator=generator) < 0.2
    return mask, starts.cumsum(1) % 2


def valid_pairs(mask: Tensor, doc_ids: Tensor, window: int):
    """(row, t, lag) of every pair that counts, by looking at each token between."""
    for row in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            for lag in range(1, min(window, t) + 1):
                one_document = len(set(doc_ids[row, t - lag : t + 1].tolist())) == 1
                if mask[row, t] and mask[row, t - lag] and one_document:
                    yield row, t, lag


def tracker_on(seeds: list[int], tracker: TemporalCorrelationTracker, measure_after: int = 10**9) -> None:
    for step, seed in enumerate(seeds):
        tracker.update(random_codes(seed), *random_layout(seed), step=step)
        if step + 1 == measure_after:
            tracker.measure()


@given(st.integers(0, 200))
def test_pairs_never_cross_a_document_a_sequence_or_a_masked_end(seed):
    mask, doc_ids = random_layout(seed)
    valid = same_document(mask, doc_ids, WINDOW)
    expected = torch.zeros_like(valid)
    for row, t, lag in valid_pairs(mask, doc_ids, WINDOW):
        expected[row, t, lag - 1] = True
    assert torch.equal(valid, expected)


@given(st.integers(0, 200))
@settings(max_examples=10)
def test_marginals_are_exact_counts_over_pairs_that_count(seed):
    tracker = TemporalCorrelationTracker(F, WINDOW, entries=4, sample_tokens=None)
    tracker_on([seed], tracker)
    on = random_codes(seed).values != 0
    source, target, pairs = (torch.zeros_like(each) for each in tracker.marginals.state_dict().values())
    for row, t, lag in valid_pairs(*random_layout(seed), WINDOW):
        source[lag - 1] += on[row, t - lag]
        target[lag - 1] += on[row, t]
        pairs[lag - 1] += 1
    assert torch.equal(tracker.marginals.source, source) and torch.equal(tracker.marginals.target, target)
    assert torch.equal(tracker.marginals.pairs, pairs)


@given(st.integers(0, 200), st.sampled_from([None, 7]))
@settings(max_examples=10)
def test_regressor_counts_are_exact_over_tokens_with_a_full_history(seed, sample):
    tracker = TemporalCorrelationTracker(F, WINDOW, entries=4, sample_tokens=sample)
    tracker_on([seed, seed + 1, seed + 2], tracker, measure_after=1)
    counts = tracker.regressors
    joint, with_target = torch.zeros_like(counts.joint), torch.zeros_like(counts.with_target)
    target, tokens = torch.zeros(F), 0
    for step in (1, 2):
        on, (mask, doc_ids) = random_codes(seed + step).values != 0, random_layout(seed + step)
        full = same_document(mask, doc_ids, WINDOW).all(-1)
        for row, t in sample_tokens(mask, sample, 0, step).tolist():
            if full[row, t]:
                x = on[row, t - counts.lag, counts.source.clamp(min=0)] & (counts.source >= 0)
                joint += x[:, :, None] & x[:, None, :]
                with_target += x & on[row, t][:, None]
                target += on[row, t]
                tokens += 1
    assert torch.equal(counts.joint, joint) and torch.equal(counts.with_target, with_target)
    assert torch.equal(counts.target.float(), target) and int(counts.tokens) == tokens


def held(tracker: TemporalCorrelationTracker) -> dict[tuple[int, int, int], float]:
    """Count of every held (source, target, lag)."""
    table = tracker.candidates
    places = torch.nonzero(table.source >= 0).tolist()
    return {(int(table.source[i, s]), i, int(table.lag[i, s])): float(table.count[i, s]) for i, s in places}


@given(st.integers(0, 200))
@settings(max_examples=10)
def test_counters_are_exact_from_admission_on(seed):
    tracker = TemporalCorrelationTracker(F, WINDOW, entries=F * WINDOW, sample_tokens=None)
    tracker_on([*range(6)], tracker)
    before = held(tracker)
    tracker.update(random_codes(seed), *random_layout(seed), step=6)
    on = random_codes(seed).values != 0
    new = torch.zeros(WINDOW + 1, F, F)
    for row, t, lag in valid_pairs(*random_layout(seed), WINDOW):
        new[lag] += on[row, t - lag][:, None] & on[row, t]
    after = held(tracker)
    # There is a slot for every triple, so none held was evicted.
    assert before and all(after[j, i, lag] == count + new[lag, j, i] for (j, i, lag), count in before.items())
    assert all(j != i for j, i, _ in after)


def test_a_sample_is_a_function_of_seed_and_step_and_leaves_masked_tokens_out():
    mask, _ = random_layout(0)
    first = sample_tokens(mask, 9, seed=1, step=2)
    assert torch.equal(first, sample_tokens(mask, 9, seed=1, step=2))
    assert not torch.equal(first, sample_tokens(mask, 9, seed=1, step=3))
    assert not torch.equal(first, sample_tokens(mask, 9, seed=2, step=2))
    assert len(first) == 9 and mask[first[:, 0], first[:, 1]].all()


def test_every_token_is_sampled_equally_often():
    mask, _ = random_layout(1)
    n, steps, tokens = 8, 3000, int(mask.sum())
    drawn = torch.zeros(mask.shape)
    for step in range(steps):
        row, position = sample_tokens(mask, n, seed=0, step=step).unbind(1)
        drawn[row, position] += 1
    share = n / tokens
    error = (steps * share * (1 - share)) ** 0.5
    assert ((drawn[mask] - steps * share).abs() < 5 * error).all()


def test_the_sample_is_recorded():
    tracker = TemporalCorrelationTracker(F, WINDOW, sample_tokens=5)
    tracker_on([0, 1], tracker)
    seen = sum(int(random_layout(seed)[0].sum()) for seed in (0, 1))
    assert (int(tracker.tokens_sampled), int(tracker.tokens_seen)) == (10, seen)


def test_C_is_the_average_of_interactions_with_absent_triples_counted_as_zero():
    tracker = TemporalCorrelationTracker(F, WINDOW, entries=F * WINDOW, alpha=0.2, sample_tokens=None)
    tracker_on([0, 1, 2], tracker)
    source, lag = tracker.candidates.source.clone(), tracker.candidates.lag.clone()
    average = torch.zeros(source.shape)
    for step in range(3, 9):
        codes, (mask, doc_ids) = random_codes(step, pos=4), random_layout(step, pos=4)
        total, pairs = torch.zeros(WINDOW + 1, F, F), torch.zeros(WINDOW + 1, F, F)
        for row, t, k in valid_pairs(mask, doc_ids, WINDOW):
            past, now = codes.values[row, t - k], codes.values[row, t]
            both = (past[:, None] != 0) & (now != 0)
            total[k] += torch.where(both, torch.sigmoid(past[:, None] * now), 0)
            pairs[k] += both
        mean = total / pairs.clamp(min=1)
        average = 0.8 * average + 0.2 * mean[lag, source.clamp(min=0), torch.arange(F)[:, None]] * (source >= 0)
        held_before = held(tracker)
        tracker.update(codes, mask, doc_ids, step=step, interaction=lambda j, i, k, zj, zi: torch.sigmoid(zj * zi))
        assert set(held_before) <= set(held(tracker))
    expected = {
        (int(source[i, s]), i, int(lag[i, s])): float(average[i, s]) for i, s in torch.nonzero(source >= 0).tolist()
    }
    table, C = tracker.candidates, tracker.interactions()
    found = {
        (int(table.source[i, s]), i, int(table.lag[i, s])): float(C[i, s])
        for i, s in torch.nonzero(table.source >= 0).tolist()
    }
    assert expected and all(found[triple] == pytest.approx(value, abs=1e-5) for triple, value in expected.items())


def test_a_resumed_tracker_goes_on_as_if_never_stopped():
    make = lambda: TemporalCorrelationTracker(F, WINDOW, entries=4, sample_tokens=9, half_life=20)  # noqa: E731
    whole, first, second = make(), make(), make()
    for tracker in (whole, first):
        tracker_on([0, 1, 2], tracker, measure_after=2)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for tracker in (whole, second):
        tracker.update(random_codes(3), *random_layout(3), step=3)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_the_past_fades_with_the_half_life():
    tracker = TemporalCorrelationTracker(F, WINDOW, entries=4, sample_tokens=None, half_life=40)
    tracker_on([*range(20)], tracker)
    assert float(tracker.marginals.pairs[0]) <= 2 * (40 + 36)


def test_the_tracker_holds_no_graph_and_moves():
    codes = random_codes(0)
    tracker = TemporalCorrelationTracker(F, WINDOW, entries=4)
    tracker.update(DenseCodes(values=codes.values.clone().requires_grad_(), scale=None), step=0)
    tracker.measure()
    tracker.update(DenseCodes(values=codes.values.clone().requires_grad_(), scale=None), step=1)
    assert not any(tensor.requires_grad for tensor in tracker.state_dict().values())
    assert all(tensor.is_meta for tensor in tracker.to("meta", torch.bfloat16).state_dict().values())
    assert tracker.marginals.source.dtype == torch.float32


def test_sparse_and_dense_codes_and_a_batch_without_tokens_are_the_same_to_the_tracker():
    codes = random_codes(0)
    dense, sparse = (TemporalCorrelationTracker(F, WINDOW, entries=4) for _ in range(2))
    dense.update(codes, step=0)
    sparse.update(as_slots(codes), step=0)
    sparse.update(as_slots(codes), torch.zeros(3, 12, dtype=torch.bool), step=0)
    for name, tensor in dense.state_dict().items():
        assert torch.equal(tensor, sparse.state_dict()[name]), name


def test_a_token_with_too_many_active_features_contributes_its_largest():
    codes = random_codes(0)
    kept = as_slots(codes, max_active=2)
    assert isinstance(kept, SparseCodes) and kept.values.shape[-1] == 2
    assert torch.equal(kept.values, codes.values.topk(2, dim=-1).values)
    assert torch.equal(kept.dense() != 0, (kept.dense() == codes.values) & (codes.values != 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window"),
        ({"sample_tokens": 0}, "sample_tokens"),
        ({"alpha": 0.0}, "alpha"),
        ({"half_life": 2**25}, "half_life"),
    ],
)
def test_options_out_of_range_give_one_clear_line(options, message):
    with pytest.raises(UserError, match=message):
        TemporalCorrelationTracker(F, **options)


def test_flat_codes_are_refused():
    with pytest.raises(ValueError, match="batch, pos"):
        TemporalCorrelationTracker(F).update(DenseCodes(values=torch.zeros(4, F), scale=None), step=0)


FULL_SIZE = """
import resource, sys, torch
from chronosae.autoencoders.codes import SparseCodes
from chronosae.objectives import TemporalCorrelationTracker
torch.set_num_threads(1)
sample, F = int(sys.argv[1]) or None, 16384
indices = torch.rand(16, 128, F // 16).topk(32).indices.sort().values * 16
codes = SparseCodes(values=torch.rand(16, 128, 32) + 0.1, indices=indices, n_features=F, scale=None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracker = TemporalCorrelationTracker(F, 4, sample_tokens=sample)
for step in range(3):
    tracker.update(codes, step=step, interaction=lambda j, i, k, zj, zi: torch.sigmoid(zi * zj))
    tracker.measure()
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
largest = max(t.numel() for t in tracker.state_dict().values())
print(tracker.nbytes(), peak, largest)
"""


@pytest.mark.parametrize("sample", [128, pytest.param(0, marks=pytest.mark.slow)])
def test_full_size_stays_within_half_a_gigabyte_and_far_from_F_by_F(sample):
    command = [sys.executable, "-c", FULL_SIZE, str(sample)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stated, peak, largest = map(int, output.split())
    assert stated <= 300 * 2**20
    assert peak <= 512 * 2**20, f"{peak / 2**20:.0f} MiB"
    assert largest <= 16384**2 // 8


@pytest.mark.parametrize("cells", [None, 2**10])
def test_compiled_counting_ends_in_the_same_state_as_torch(cells: int | None) -> None:
    def run() -> dict:
        tracker = TemporalCorrelationTracker(40, window=3, entries=4, sample_tokens=50, cells=cells, half_life=300)
        for step in range(12):
            g = torch.Generator().manual_seed(step)
            values = torch.rand(3, 30, 40, generator=g) * (torch.rand(3, 30, 40, generator=g) < 0.15)
            values[:, 2:] += 0.5 * (values[:, :-2].roll(1, -1) > 0)  # each feature two tokens after another
            docs = (torch.rand(3, 30, generator=g) > 0.9).long().cumsum(1)
            mask = torch.rand(3, 30, generator=g) > 0.1
            codes = DenseCodes(values * mask.unsqueeze(-1), None)
            tracker.update(codes, mask, docs, step=step, interaction=lambda j, i, lag, a, b: (a * b).sigmoid())
            if step == 6:
                tracker.measure()
        return tracker.state_dict()

    compiled = run()
    with dense_only():
        reference = run()
    assert set(compiled) == set(reference)
    for name, value in compiled.items():
        torch.testing.assert_close(value, reference[name], rtol=0, atol=0, msg=name)


def test_compiled_regressor_counts_of_many_tokens_are_those_of_torch() -> None:
    """More than a block of the compiled loop, which holds 128; several targets share a regressor, some have few."""
    codes, (mask, doc_ids) = random_codes(0, batch=5, pos=60), random_layout(0, batch=5, pos=60)
    codes = DenseCodes(codes.values * mask.unsqueeze(-1), None)
    seen = history(as_slots(codes), same_document(mask, doc_ids, WINDOW), mask.nonzero())
    pair = torch.stack([torch.randperm(F * WINDOW)[:5] for _ in range(F)])
    source = (pair % F).masked_fill(torch.rand(pair.shape) < 0.3, -1)
    states = []
    for compiled in (True, False):
        counts = RegressorCounts(F, WINDOW, 5)
        counts.start(source, pair // F + 1)
        with nullcontext() if compiled else dense_only():
            counts.add(seen)
        states.append(counts.state_dict())
    assert len(seen.valid) > 200 and int(states[0]["tokens"]) > 50
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
