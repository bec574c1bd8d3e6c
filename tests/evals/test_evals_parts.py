"""Moments, PCA, features, intervals: each part by itself."""

import itertools

import pytest
import torch
from evals_tiny import evaluate, tiny_sae
from hypothesis import given, settings
from hypothesis import strategies as st

from chronosae.activations.batch import SequenceBatch
from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.evals import bootstrap as bootstrap_module
from chronosae.evals.bootstrap import bootstrap
from chronosae.evals.features import FeatureCounts, max_cosine
from chronosae.evals.moments import MomentSums
from chronosae.evals.pca import PCALine
from chronosae.subject import Subject


def _moments(x: torch.Tensor, sizes: list[int], documents: torch.Tensor | None = None):
    sums = MomentSums()
    documents = torch.zeros(len(x), dtype=torch.long) if documents is None else documents
    for part, ids in zip(x.split(sizes), documents.split(sizes), strict=True):
        sums.add(part, ids)
    return sums.finish()


def test_moments_keep_their_digits_when_the_mean_dwarfs_the_spread() -> None:
    x = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1 + 1e4
    moments = _moments(x, [7, 20, 33])
    exact = (x - 1e4) - (x - 1e4).mean(0)
    assert moments.total_variance == pytest.approx(float(exact.square().sum()), rel=1e-9)
    assert not moments.constant
    assert torch.allclose(moments.mean, x.mean(0), rtol=1e-12)
    assert moments.sum_of_squares == pytest.approx(float(x.square().sum()), rel=1e-12)


def test_moments_of_each_document_add_up_to_the_whole_whatever_batches_it_comes_in() -> None:
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 3
    document = torch.arange(30) // 12 * 5 + 3
    moments = _moments(x, [10, 5, 15], document)
    assert len(moments.centred_squares) == 3
    assert float(moments.centred_squares.sum()) == pytest.approx(moments.total_variance)
    assert moments.centred_sums.sum(0).abs().max() < 1e-12
    second = (x[12:24] - x.mean(0)).square().sum()
    assert float(moments.centred_squares[1]) == pytest.approx(float(second))
    for sizes in ([30], [12, 12, 6], [1] * 30):
        assert torch.allclose(_moments(x, sizes, document).centred_sums, moments.centred_sums, atol=1e-10)


@given(seed=st.integers(0, 2**16), d_in=st.integers(1, 9), n=st.integers(2, 40))
def test_the_pca_line_rises_from_the_mean_to_everything(seed: int, d_in: int, n: int) -> None:
    x = torch.randn(n, d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    line = PCALine(_moments(x, [n]))
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
    assert PCALine(_moments(x, [25, 25])).at(3) == pytest.approx(1 - float(left), rel=1e-10)


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
        monkeypatch.setattr("chronosae.evals.features.COSINE_CHUNK", chunk)
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
    assert set(result.intervals) == {"explained_variance", "l0", "ce_loss_score"}
    assert result.intervals == again.intervals
    for name in ("l0", "ce_loss_score"):
        interval = result.intervals[name]
        assert interval.low < getattr(result.metrics, name) < interval.high
        assert interval.se > 0 and interval.n_units == len(batch.doc_ids[batch.mask].unique())


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
