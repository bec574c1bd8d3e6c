"""The consistency term against the variance of every window, computed one by one."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.objectives.consistency import consistency_error

EPS = 1e-6


def documents(batch: int, pos: int, seed: int, masked: float = 0.3, new: float = 0.15) -> tuple[Tensor, Tensor]:
    """A random mask and random document boundaries."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, pos, generator=g) >= masked
    return mask, (torch.rand(batch, pos, generator=g) < new).long().cumsum(1)


def sparse(batch: int, pos: int, d_sae: int, slots: int, seed: int) -> SparseCodes:
    """Random sparse codes in float64, some slots unused."""
    g = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, pos, d_sae, generator=g).topk(slots, -1).indices.sort(-1).values
    values = torch.randn(batch, pos, slots, generator=g, dtype=torch.float64) + 0.5
    unused = torch.rand(batch, pos, slots, generator=g) < 0.2
    indices, values = indices.masked_fill(unused, 0), values.masked_fill(unused, 0).requires_grad_()
    return SparseCodes(values, None, indices, d_sae)


def window_by_window(z: Tensor, mask: Tensor, doc_ids: Tensor, window: int) -> Tensor:
    """DESIGN's formula as written: gather each document's unmasked tokens, slide, take the variance."""
    variances = []
    for row in range(z.shape[0]):
        for doc in doc_ids[row].unique():
            tokens = z[row][(doc_ids[row] == doc) & mask[row]]
            variances += [tokens[t : t + window].var(0, correction=0) for t in range(len(tokens) - window + 1)]
    fired = (z[mask] != 0).any(0)
    if not variances or not fired.any():
        return z.sum() * 0
    return (torch.stack(variances).mean(0) / (z[mask].square().mean(0) + EPS))[fired].mean()


@given(
    batch=st.integers(1, 3),
    pos=st.integers(1, 30),
    window=st.integers(2, 9),
    seed=st.integers(0, 1000),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_it_equals_the_variance_of_every_window_and_so_does_its_gradient(
    batch: int, pos: int, window: int, seed: int, masked: float
) -> None:
    codes = sparse(batch, pos, d_sae=11, slots=4, seed=seed)
    mask, doc_ids = documents(batch, pos, seed, masked)
    fast = consistency_error(codes, mask, doc_ids, window, EPS)
    slow = window_by_window(codes.dense(), mask, doc_ids, window)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    used = codes.values != 0  # the dense reference also tells unused slots what feature 0 would like
    fast_grad, slow_grad = (torch.autograd.grad(x, codes.values)[0] * used for x in (fast, slow))
    torch.testing.assert_close(fast_grad, slow_grad, rtol=1e-10, atol=1e-10)


def persistence(z: Tensor, mask: Tensor, doc_ids: Tensor) -> Tensor:
    """P(fires | fired at the unmasked token before) of each feature, one document at a time."""
    fired, followed = torch.zeros(z.shape[-1]), torch.zeros(z.shape[-1])
    for row in range(z.shape[0]):
        for doc in doc_ids[row].unique():
            on = z[row][(doc_ids[row] == doc) & mask[row]] != 0
            fired += on[1:].sum(0)
            followed += (on[1:] & on[:-1]).sum(0)
    return followed / fired.clamp(min=1)


@given(seed=st.integers(0, 1000), masked=st.sampled_from([0.0, 0.3]))
def test_by_persistence_each_feature_counts_as_often_as_it_stays(seed: int, masked: float) -> None:
    codes = sparse(2, 25, d_sae=5, slots=3, seed=seed)
    mask, doc_ids = documents(2, 25, seed, masked)
    z, share = codes.dense(), persistence(codes.dense(), mask, doc_ids)
    fired = (z[mask] != 0).any(0)
    alone = [window_by_window(z * (torch.arange(5) == f), mask, doc_ids, 4) for f in range(5)]
    expected = (torch.stack(alone) * share)[fired].sum() / fired.sum().clamp(min=1)
    weighed = consistency_error(codes, mask, doc_ids, 4, by_persistence=True)
    torch.testing.assert_close(weighed, expected.to(weighed.dtype), rtol=1e-6, atol=1e-8)


def test_gradcheck_through_variance_and_scale() -> None:
    codes = sparse(2, 12, d_sae=6, slots=3, seed=3)
    mask, doc_ids = documents(2, 12, seed=3)
    values = torch.where(codes.values == 0, 0.7, codes.values.detach()).requires_grad_()

    def error(v: Tensor, by_persistence: bool = False) -> Tensor:
        z = SparseCodes(v, None, codes.indices, 6)
        return consistency_error(z, mask, doc_ids, window=3, by_persistence=by_persistence)

    assert torch.autograd.gradcheck(error, values)
    assert torch.autograd.gradcheck(lambda v: error(v, by_persistence=True), values)


def test_dense_codes_give_what_sparse_codes_give() -> None:
    codes = sparse(2, 20, d_sae=9, slots=4, seed=5)
    mask, doc_ids = documents(2, 20, seed=5)
    dense = DenseCodes(codes.dense(), None)
    torch.testing.assert_close(
        consistency_error(dense, mask, doc_ids, 4), consistency_error(codes, mask, doc_ids, 4), rtol=1e-12, atol=1e-12
    )


def test_shrinking_the_codes_does_not_lower_it() -> None:
    codes = sparse(2, 30, d_sae=9, slots=4, seed=6)
    mask, doc_ids = documents(2, 30, seed=6)
    small = SparseCodes(codes.values * 1e-3, None, codes.indices, 9)
    torch.testing.assert_close(
        consistency_error(small, mask, doc_ids, eps=0.0), consistency_error(codes, mask, doc_ids, eps=0.0)
    )


def test_a_feature_that_keeps_its_value_costs_nothing_and_one_that_flickers_does() -> None:
    mask, doc_ids = torch.ones(1, 16, dtype=torch.bool), torch.zeros(1, 16, dtype=torch.long)
    steady = torch.full((1, 16, 1), 3.0)
    flicker = steady * (torch.arange(16) % 2).view(1, 16, 1)
    assert float(consistency_error(DenseCodes(steady, None), mask, doc_ids)) < 1e-12
    assert float(consistency_error(DenseCodes(flicker, None), mask, doc_ids)) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("why", ["documents shorter than the window", "all masked", "nothing fires"])
def test_without_a_window_or_a_feature_it_is_zero_and_its_gradient_too(why: str) -> None:
    values = (
        torch.ones(2, 6, 3, requires_grad=True) if why != "nothing fires" else torch.zeros(2, 6, 3).requires_grad_()
    )
    mask = torch.full((2, 6), why != "all masked")
    doc_ids = torch.arange(6).div(3, rounding_mode="floor").expand(2, 6)
    error = consistency_error(DenseCodes(values, None), mask, doc_ids, window=4 if why != "nothing fires" else 2)
    error.backward()
    assert error == 0 and values.grad is not None and (values.grad == 0).all()


def test_a_window_of_one_token_is_refused() -> None:
    codes = DenseCodes(torch.ones(1, 4, 2), None)
    with pytest.raises(ValueError, match="window is 1; the variance within a window needs at least 2 tokens"):
        consistency_error(codes, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.long), window=1)


def test_single_precision_stays_within_1e_6_of_double() -> None:
    codes = sparse(4, 64, d_sae=50, slots=8, seed=8)
    mask, doc_ids = documents(4, 64, seed=8)
    single = consistency_error(SparseCodes(codes.values.float(), None, codes.indices, 50), mask, doc_ids)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), consistency_error(codes, mask, doc_ids), rtol=1e-6, atol=0)


def test_its_cost_does_not_grow_with_the_window() -> None:
    codes = sparse(4, 256, d_sae=512, slots=16, seed=9)
    mask, doc_ids = torch.ones(4, 256, dtype=torch.bool), torch.zeros(4, 256, dtype=torch.long)

    def cost(window: int) -> float:
        began = time.process_time()
        torch.autograd.grad(consistency_error(codes, mask, doc_ids, window), codes.values)
        return time.process_time() - began

    best = {window: min(cost(window) for _ in range(9)) for window in (4, 128)}
    assert best[128] < 1.5 * best[4], "32 times the window, the same cost"
