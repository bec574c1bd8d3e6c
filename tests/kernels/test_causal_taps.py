"""Depthwise taps in place against one shifted copy a lag."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.kernels import causal_taps, causal_taps_dense

lag_sets = st.sets(st.integers(1, 9), min_size=1, max_size=4).map(lambda lags: tuple(sorted(lags)))


def case(pos: int, lags: tuple[int, ...], seed: int, documents: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two sequences of width 3, weights, and a few documents."""
    g = torch.Generator().manual_seed(seed)
    s = torch.randn(2, pos, 3, generator=g, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(lags), 3, generator=g, dtype=torch.float64, requires_grad=True)
    doc_ids = (torch.rand(2, pos, generator=g) < 0.3).long().cumsum(1)
    return s, weights, doc_ids if documents else None


@given(pos=st.integers(1, 12), lags=lag_sets, documents=st.booleans(), seed=st.integers(0, 999))
def test_values_and_gradients_equal_the_dense_reference(
    pos: int, lags: tuple[int, ...], documents: bool, seed: int
) -> None:
    s, weights, doc_ids = case(pos, lags, seed, documents)
    fast, dense = causal_taps(s, weights, lags, doc_ids), causal_taps_dense(s, weights, lags, doc_ids)
    torch.testing.assert_close(fast, dense, atol=1e-12, rtol=1e-12)
    direction = torch.randn(fast.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if pos <= lags[0]:
        dense = dense + 0 * weights.sum()  # the reference never touches weights whose lags reach no token
    expected = torch.autograd.grad((dense * direction).sum(), (s, weights))
    for found, wanted in zip(torch.autograd.grad((fast * direction).sum(), (s, weights)), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_the_reference_is_the_sum_it_says() -> None:
    s, weights, doc_ids = case(7, (1, 3), seed=3)
    assert doc_ids is not None and doc_ids.max() > 0
    y = causal_taps_dense(s, weights, (1, 3), doc_ids)
    for b in range(2):
        for t in range(7):
            back = [(i, t - lag) for i, lag in enumerate((1, 3)) if t >= lag and doc_ids[b, t] == doc_ids[b, t - lag]]
            expected = s[b, t] + sum((weights[i] * s[b, u] for i, u in back), torch.zeros(3, dtype=torch.float64))
            torch.testing.assert_close(y[b, t], expected)


def test_gradcheck() -> None:
    for pos, lags, documents in [(6, (1, 2, 4), True), (6, (1, 2, 4), False), (1, (1,), True), (3, (2, 8), True)]:
        s, weights, doc_ids = case(pos, lags, seed=1, documents=documents)
        assert torch.autograd.gradcheck(lambda x, w, d=doc_ids, ls=lags: causal_taps(x, w, ls, d), (s, weights))


@given(
    pos=st.integers(2, 12),
    cut=st.integers(1, 11),
    spare=st.integers(0, 3),
    lags=lag_sets,
    documents=st.booleans(),
    seed=st.integers(0, 999),
)
def test_going_on_from_what_came_before_equals_the_whole(
    pos: int, cut: int, spare: int, lags: tuple[int, ...], documents: bool, seed: int
) -> None:
    s, weights, doc_ids = case(pos, lags, seed, documents)
    s, cut, history = s.detach(), min(cut, pos - 1), max(lags) + spare
    padded = torch.cat([torch.zeros(2, history, 3, dtype=torch.float64), s], 1)
    before, before_docs = padded[:, cut : cut + history], None
    if doc_ids is not None:
        nothing = torch.full((2, history), -1)
        before_docs = torch.cat([nothing, doc_ids], 1)[:, cut : cut + history]
    rest = None if doc_ids is None else doc_ids[:, cut:]
    found = causal_taps(s[:, cut:], weights, lags, rest, before, before_docs)
    torch.testing.assert_close(found, causal_taps(s, weights, lags, doc_ids)[:, cut:], atol=1e-12, rtol=1e-12)


def test_mixed_precision_stays_close_to_float32() -> None:
    s, weights, doc_ids = case(12, (1, 2, 4), seed=2)
    exact = causal_taps(s, weights, (1, 2, 4), doc_ids)
    low = causal_taps(s.bfloat16(), weights.float(), (1, 2, 4), doc_ids)
    assert low.dtype == torch.bfloat16
    size = causal_taps(s.abs(), weights.abs(), (1, 2, 4), doc_ids)
    assert ((low - exact).abs() <= 5 * 2**-8 * size).all()
