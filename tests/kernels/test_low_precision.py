"""The choice made with bfloat16 products is the exact one, near-ties and odd numbers included."""

import math

import pytest
import torch
from torch import Tensor

from chronosae.kernels import compiled_kernels, encode_threshold, encode_topk, largest_positive, loops, scatter_dense
from chronosae.kernels import encode as module
from chronosae.kernels.reference import LEAST_TOKENS, ROUNDING

pytestmark = pytest.mark.skipif(not compiled_kernels(torch.empty(0)), reason="no compiler here")
N, D, F = 130, 24, 700


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 whether or not this CPU is fast at them."""
    monkeypatch.setattr(module, "low_precision_pays", lambda: True)
    assert N >= LEAST_TOKENS


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=g), torch.randn(F, D, generator=g), torch.randn(F, generator=g)


def exact(x: Tensor, W: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The definition: every inner product in the one fixed order, then the largest."""
    assert compiled_kernels(x)
    rows = list(zip(W.numpy(), bias.numpy(), strict=True))
    pre = torch.tensor([[loops.bits.dot(a, w) + b for w, b in rows] for a in x.numpy()])
    return largest_positive(pre.float(), k)


def assert_exact(x: Tensor, W: Tensor, bias: Tensor, k: int) -> None:
    values, indices, _ = encode_topk(x, W, bias, k)
    expected, places = exact(x, W, bias, k)
    assert torch.equal(indices, places)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("k", [1, 8, 64])
def test_values_and_choice_are_bit_equal_to_computing_everything(k: int) -> None:
    assert_exact(*case(), k)


def test_features_that_differ_by_less_than_bfloat16_can_tell_are_told_apart() -> None:
    x, W, _ = case(1)
    near = W[:1] * (1 + 1e-6 * torch.randn(F, 1, generator=torch.Generator().manual_seed(2)))
    assert len(near.bfloat16().unique(dim=0)) < 20
    assert_exact(x, near, torch.zeros(F), 8)


def test_of_features_that_are_the_same_the_first_are_chosen() -> None:
    x, W, bias = case(3)
    indices = encode_topk(x, W[:1].expand(F, -1).contiguous(), bias[:1].expand(F).contiguous() + 100, 5)[1]
    assert (indices == torch.arange(5)).all()


def test_norms_and_biases_of_very_different_size_change_nothing() -> None:
    x, W, bias = case(4)
    scales = 10 ** torch.linspace(-6, 3, F).unsqueeze(1)
    assert_exact(x * 10 ** torch.linspace(-20, 6, N).unsqueeze(1), W * scales, bias * 10, 8)
    assert_exact(x * 1e-41, W, torch.zeros(F), 4)


def test_the_choice_differs_from_a_float64_one_only_within_the_stated_rounding() -> None:
    x, W, bias = case(5)
    W[F // 2 :] = W[: F // 2] * (1 + 1e-7 * torch.randn(F // 2, 1, generator=torch.Generator().manual_seed(6)))
    indices, pre = encode_topk(x, W, bias, 8)[1], x.double() @ W.T.double() + bias
    chosen = torch.zeros(N, F, dtype=torch.bool).scatter_(1, indices, True)
    bound = ROUNDING * (D + 4) * torch.hypot(x.norm(dim=1), torch.ones(())) * torch.hypot(W.norm(dim=1), bias).max()
    gap = pre.masked_fill(chosen, -math.inf).amax(1) - pre.masked_fill(~chosen, math.inf).amin(1)
    assert (gap <= bound).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_number_that_is_none_stays_visible(bad: float) -> None:
    x, W, bias = case(7)
    W = W[:40].contiguous()
    W[7, 3] = bad
    values = encode_topk(x, W, bias[:40], 6)[0]
    expected = exact(x, W, bias[:40], 6)[0]
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    assert not torch.isfinite(values).all() or bad == 3e38
    x[5, 2] = bad
    torch.testing.assert_close(
        encode_topk(x, case(7)[1], bias, 6)[0], exact(x, case(7)[1], bias, 6)[0], rtol=0, atol=0, equal_nan=True
    )


def test_codes_depend_neither_on_the_batch_nor_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_TOKENS", 1)
    x, W, bias = case(8)
    active = torch.arange(N) % 3 > 0
    assert compiled_kernels(x, W, bias)
    whole = encode_topk(x, W, bias, 8)[:2]
    part = encode_topk(x[40:].contiguous(), W, bias, 8)[:2]
    assert all(torch.equal(a[40:], b) for a, b in zip(whole, part, strict=True))
    masked = encode_topk(x, W, bias, 8, active)[:2]
    assert all(torch.equal(a[active], b[active]) for a, b in zip(whole, masked, strict=True)) and not masked[0][0].any()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    again = encode_topk(x, W, bias, 8)[:2]
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("count", [1, 300, 1300, N * F])
def test_the_largest_of_a_whole_batch_are_bit_equal_to_computing_everything(count: int) -> None:
    x, W, bias = case(9)
    bias = bias - (8 if count == N * F else 0)  # few are positive where all are asked for
    active = torch.arange(N) % 5 > 0
    pre = torch.zeros(N, F)
    values, indices = exact(x, W, bias, F)
    pre.scatter_add_(1, indices, values).mul_(active.unsqueeze(1))
    positive = pre[pre > 0].sort(descending=True).values
    threshold = positive[min(count, len(positive)) - 1]
    found = encode_threshold(x, W, bias, active, count=count)
    again = encode_threshold(x, W, bias, active, threshold=float(threshold))
    assert found is not None and again is not None and found[1] == again[1] == threshold
    for (values, indices, _), _ in (found, again):
        assert torch.equal(scatter_dense(indices, values, F), torch.where(pre >= threshold, pre, 0))
        assert (indices.diff(dim=1) >= 0).all() and values.shape[1] == (pre >= threshold).sum(1).max()


def test_a_threshold_that_leaves_too_many_codes_or_none_at_all() -> None:
    x, W, bias = case(10)
    found = encode_threshold(x, W, bias - 1e6, count=100)
    assert found is not None and found[1] == math.inf and not found[0][0].any()
    W[3, 3] = math.nan
    assert encode_threshold(x, W, bias, count=100) is None, "every entry must be looked at"
