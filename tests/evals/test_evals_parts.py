"""Spread, PCA, features, intervals: each part by itself."""

import itertools
import math

import pytest
import torch
from evals_tiny import BATCH_DEPENDENT, evaluate, tiny_sae
from hypothesis import given, settings
from hypothesis import strategies as st

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.evals import bootstrap as bootstrap_module
from chronosae.evals.bootstrap import bootstrap
from chronosae.evals.core.data import PCALine, SpreadSums
from chronosae.evals.core.features import FeatureCounts, max_cosine
from chronosae.evals.core.measure import CLEAN, MEAN, ZERO, BehaviourTotals
from chronosae.evals.core.report import CoreMetrics, of_behaviour
from chronosae.subject import Subject

# Batches' averages, the PCA line (fitted on what is drawn), counts over features, weights.
WITHOUT_INTERVAL = BATCH_DEPENDENT | {
    "pca_explained_variance",
    "frac_alive",
    "freq_over_1_percent",
    "freq_over_10_percent",
    "normalized_freq_over_1_percent",
    "normalized_freq_over_10_percent",
    "average_max_encoder_cosine_sim",
    "average_max_decoder_cosine_sim",
    "decoder_cosine_separation",
    "decoder_welch_floor",
    "n_tokens",
}


def _spread(x: torch.Tensor, sizes: list[int], documents: torch.Tensor | None = None):
    sums = SpreadSums()
    documents = torch.zeros(len(x), dtype=torch.long) if documents is None else documents
    for part, ids in zip(x.split(sizes), documents.split(sizes), strict=True):
        sums.add(part, ids)
    return sums.finish()


def test_the_spread_keeps_its_digits_when_the_mean_dwarfs_it() -> None:
    x = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1 + 1e4
    spread = _spread(x, [7, 20, 33])
    exact = (x - 1e4) - (x - 1e4).mean(0)
    assert spread.total_variance == pytest.approx(float(exact.square().sum()), rel=1e-9)
    assert not spread.constant
    assert torch.allclose(spread.mean, x.mean(0), rtol=1e-12)
    assert spread.sum_of_squares == pytest.approx(float(x.square().sum()), rel=1e-12)


def test_the_spreads_of_documents_add_up_to_the_whole_whatever_batches_it_comes_in() -> None:
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 3
    document = torch.arange(30) // 12 * 5 + 3
    spread = _spread(x, [10, 5, 15], document)
    assert len(spread.centred_squares) == 3
    assert float(spread.centred_squares.sum()) == pytest.approx(spread.total_variance)
    assert spread.centred_sums.sum(0).abs().max() < 1e-12
    second = (x[12:24] - x.mean(0)).square().sum()
    assert float(spread.centred_squares[1]) == pytest.approx(float(second))
    for sizes in ([30], [12, 12, 6], [1] * 30):
        assert torch.allclose(_spread(x, sizes, document).centred_sums, spread.centred_sums, atol=1e-10)


@given(seed=st.integers(0, 2**16), d_in=st.integers(1, 9), n=st.integers(2, 40))
def test_the_pca_line_rises_from_the_mean_to_everything(seed: int, d_in: int, n: int) -> None:
    x = torch.randn(n, d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    line = PCALine(_spread(x, [n]))
    values = [line.at(k) for k in range(d_in + 3)]
    assert values[0] == 0.0 and values[d_in:] == pytest.approx([1.0] * 3)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert list(line.curve())[-1] == d_in


def test_the_pca_line_equals_projection_onto_singular_vectors() -> None:
    x = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) @ torch.randn(
        8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    centred = x - x.mean(0)
    basis = torch.linalg.svd(centred).Vh[:3]
    left = (centred - centred @ basis.T @ basis).square().sum() / centred.square().sum()
    assert PCALine(_spread(x, [25, 25])).at(3) == pytest.approx(1 - float(left), rel=1e-10)


@given(seed=st.integers(0, 2**16))
def test_sparse_and_dense_codes_count_alike(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(3, 7, 11, generator=generator) * (torch.rand(3, 7, 11, generator=generator) > 0.6)
    top, indices = values.topk(6, dim=-1)
    indices, order = torch.where(top > 0, indices, 0).sort(-1)
    sparse = SparseCodes(values=top.gather(-1, order), scale=None, indices=indices, n_features=11)
    dense = DenseCodes(values=sparse.dense(), scale=None)
    mask = torch.rand(3, 7, generator=generator) > 0.3
    counts = [FeatureCounts(11), FeatureCounts(11)]
    (l0_a, l1_a), (l0_b, l1_b) = (c.add(codes, mask) for c, codes in zip(counts, (sparse, dense), strict=True))
    assert torch.equal(l0_a[mask], l0_b[mask]) and torch.allclose(l1_a[mask], l1_b[mask])
    assert torch.equal(counts[0].fired, counts[1].fired) and torch.equal(counts[0].prompts, counts[1].prompts)
    active = (dense.values > 0) & mask[..., None]
    assert counts[0].fired.tolist() == [int(active[..., f].sum()) for f in range(11)]
    assert counts[0].prompts.tolist() == [sum(bool(active[s, :, f].any()) for s in range(3)) for f in range(11)]


def test_the_largest_cosine_is_with_another_vector_also_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(13, 4, generator=torch.Generator().manual_seed(0))
    vectors[5] = 0
    unit = torch.nn.functional.normalize(vectors, dim=1)
    expected = (unit @ unit.T - 10 * torch.eye(13)).max(1).values
    for chunk in (4, 13, 512):
        monkeypatch.setattr("chronosae.evals.core.features.COSINE_CHUNK", chunk)
        assert torch.allclose(max_cosine(vectors), expected, atol=1e-6)


def test_the_bootstrap_error_of_a_mean_is_the_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 5
    statistic = lambda counts: (counts @ values) / counts.sum(1)  # noqa: E731
    interval = bootstrap(statistic, 400, seed=0)
    assert interval is not None
    expected = float(values.std()) / 20
    assert interval.se == pytest.approx(expected, rel=0.1)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * expected, rel=0.1)
    assert interval.low < float(values.mean()) < interval.high
    monkeypatch.setattr(bootstrap_module, "CHUNK", 400 * 7)  # resampled in many chunks, the same draws
    assert bootstrap(statistic, 400, seed=0) == interval


def test_one_sequence_has_no_interval() -> None:
    assert bootstrap(lambda counts: counts.sum(1), 1, seed=0) is None


@pytest.mark.parametrize(("undefined", "share"), [(1, 0.001), (50, 0.05), (51, None), (1000, None)])
def test_a_few_resamples_may_leave_a_metric_undefined_and_the_interval_says_so(
    undefined: int, share: float | None
) -> None:
    found = torch.arange(1000, dtype=torch.float64)
    found[:undefined:2], found[1:undefined:2] = torch.nan, torch.inf
    interval = bootstrap(lambda counts: found, 3, seed=0)
    if share is None:
        assert interval is None
        return
    assert interval is not None and interval.undefined_share == pytest.approx(share)
    assert interval.low == pytest.approx(undefined + 0.025 * (999 - undefined))
    assert interval.high == pytest.approx(undefined + 0.975 * (999 - undefined))
    assert interval.se == pytest.approx(float(found[undefined:].std()))


@settings(max_examples=5)
@given(seed=st.integers(0, 100))
def test_intervals_hold_the_metric_and_repeat_with_the_seed(subject: Subject, batch: SequenceBatch, seed: int) -> None:
    saes = {"sae": tiny_sae("relu_l1")}
    result, again = (evaluate(subject, saes, batch, seed=seed)["sae"] for _ in range(2))
    # of so little text, more than one resample in twenty may be one that mean ablation doesn't harm
    without = WITHOUT_INTERVAL | {"ce_loss_score_mean_ablation"}
    assert set(result.intervals) - {"ce_loss_score_mean_ablation"} == set(CoreMetrics.model_fields) - without
    assert result.intervals == again.intervals
    for name, interval in result.intervals.items():
        assert interval.se > 0 and interval.n_units == len(batch.doc_ids[batch.mask].unique())
        if name != "explained_variance":  # each resample has its own mean, about which it varies less
            assert interval.low < getattr(result.metrics, name) < interval.high


@pytest.mark.parametrize("preset", ["topk", "relu_l1"])
def test_a_resample_of_every_document_once_gives_every_metric_itself(
    subject: Subject, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    monkeypatch.setattr(bootstrap_module, "_draws", lambda n, seed: iter([torch.ones(2, n, dtype=torch.float64)]))
    result = evaluate(subject, {"sae": tiny_sae(preset)}, batch)["sae"]
    assert set(result.intervals) == set(CoreMetrics.model_fields) - WITHOUT_INTERVAL
    for name, interval in result.intervals.items():
        assert (interval.low, interval.high) == pytest.approx((getattr(result.metrics, name),) * 2, rel=1e-10)


def test_a_resample_without_anything_to_compare_with_has_no_score() -> None:
    """Zero ablation helps the second document, and mean ablation does nothing to the first."""
    one = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    totals = BehaviourTotals(
        ce={CLEAN: one(2, 2), ZERO: one(3, 1.5), MEAN: one(2, 4), "sae": one(2.5, 3)},
        kl={ZERO: one(1, 1), MEAN: one(0, 1), "sae": one(0.5, 0.5)},
        ce_count=torch.tensor([1, 1]),
        kl_count=torch.tensor([1, 1]),
    )
    found = of_behaviour(totals, "sae")(one(2, 0, 0, 2, 1, 1).view(3, 2))
    assert found["ce_loss_score"].tolist() == pytest.approx([0.5, math.nan, -2.0], nan_ok=True)
    assert found["ce_loss_score_mean_ablation"].tolist() == pytest.approx([math.nan, 0.5, 0.25], nan_ok=True)
    assert found["kl_div_score_mean_ablation"].tolist() == pytest.approx([math.nan, 0.5, 0.0], nan_ok=True)
    assert found["ce_loss_with_sae"].tolist() == [2.5, 3.0, 2.75]


def test_the_explained_variance_of_a_resample_is_about_the_resamples_own_mean(
    subject: Subject, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Force one resample, documents 0, 0, 2 ..., and compare with the metric of exactly those documents."""
    ids = batch.doc_ids[batch.mask].unique()
    rows = [0, 0, 2, 3, 3, 3, 6, 7, 8, 9]
    counts = torch.bincount(torch.tensor(rows), minlength=len(ids)).double().expand(2, -1)
    monkeypatch.setattr(bootstrap_module, "_draws", lambda n, seed: iter([counts]))
    sae = tiny_sae("relu_l1")
    interval = evaluate(subject, {"sae": sae}, batch)["sae"].intervals["explained_variance"]
    x = torch.cat([batch.acts[batch.mask & (batch.doc_ids == ids[r])] for r in rows])
    error = (x - sae(x).detach()).square().sum()
    assert interval.low == pytest.approx(1 - float(error / (x - x.mean(0)).square().sum()), rel=1e-9)
