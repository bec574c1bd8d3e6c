"""The compiled sparse step equals dense arithmetic: choices exactly, values and gradients to rounding."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.kernels import (
    Moments,
    Rates,
    adamw_,
    adamw_dense_,
    compiled_kernels,
    count_active,
    encode_topk,
    encode_topk_dense,
    error_of_largest,
    error_of_largest_dense,
    gradient_energy,
    largest_positive,
    largest_positive_dense,
    rectify_largest,
    rectify_largest_dense,
    sparse_decode,
    squared_error,
    squared_error_dense,
)

pytestmark = pytest.mark.skipif(not compiled_kernels(torch.empty(0)), reason="no compiler here")
INF, NAN, TINY = math.inf, math.nan, 1e-41


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_the_largest_are_found_without_sorting(n: int, width: int, k: int, seed: int) -> None:
    pre, k = random(n, width, seed=seed, dtype=torch.float32), min(k, width)
    for fast, slow in zip(largest_positive(pre, k), largest_positive_dense(pre, k), strict=True):
        assert torch.equal(fast, slow)
    assert torch.equal(rectify_largest(pre, k), rectify_largest_dense(pre, k))


@pytest.mark.parametrize(
    ("row", "k", "indices", "values"),
    [
        ([2.0, 5.0, 5.0, 5.0, 1.0], 2, [1, 2], [5.0, 5.0]),
        ([0.0, -0.0, -1.0, 3.0], 3, [0, 0, 3], [0.0, 0.0, 3.0]),
        ([-1.0, -2.0], 2, [0, 0], [0.0, 0.0]),
        ([TINY, 2 * TINY, 0.0], 2, [0, 1], [TINY, 2 * TINY]),
        ([1.0, INF, 7.0, -INF], 2, [1, 2], [INF, 7.0]),
        ([1.0, 9.0, NAN, 2.0], 2, [1, 2], [9.0, NAN]),
        ([1.0, -NAN, NAN, INF], 2, [1, 2], [NAN, NAN]),
        ([4.0], 1, [0], [4.0]),
    ],
)
def test_ties_go_to_the_first_and_odd_values_stay_visible(row: list, k: int, indices: list, values: list) -> None:
    # Among 300 others that are never chosen, so that every path sees them.
    pre = torch.tensor([row + [-3.0] * 300])
    found, where = largest_positive(pre, k)
    assert where.tolist() == [indices]
    torch.testing.assert_close(found, torch.tensor([values]), rtol=0, atol=0, equal_nan=True)
    kept = torch.zeros_like(pre[0]).index_add(0, where[0], found[0])
    torch.testing.assert_close(rectify_largest(pre, k)[0], kept, rtol=0, atol=0, equal_nan=True)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
def test_what_the_largest_leave_of_a_vector_equals_dense_arithmetic(n: int, m: int, k: int, dtype: torch.dtype) -> None:
    target, beside = random(n, 5, dtype=dtype), random(n, 5, seed=1, dtype=dtype)
    # Rounded, so that some are equal.
    pre = (3 * random(n, m, seed=2, dtype=dtype)).round().requires_grad_()
    rows, active = random(m, 5, seed=3, dtype=dtype).requires_grad_(), random(n, seed=k) > -0.5
    target[~active], beside[~active] = INF, NAN

    def gradients(error: Callable[..., Tensor]) -> tuple:
        value = error(target, pre, k, rows, active, beside)
        return value, *torch.autograd.grad(value / 7, [pre, rows])

    for fast, slow in zip(gradients(error_of_largest), gradients(error_of_largest_dense), strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (3, 4, 4), (2, 5, 1)])
def test_gradcheck_of_what_the_largest_leave(n: int, m: int, k: int) -> None:
    target, beside, active = random(n, 3), random(n, 3, seed=1), torch.arange(n) != 1
    pre, rows = random(n, m, seed=2).requires_grad_(), random(m, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, r: error_of_largest(target, p, k, r, active, beside), (pre, rows))
    assert torch.autograd.gradcheck(lambda r: error_of_largest(target, pre.detach(), k, r, active, beside), (rows,))
    assert torch.autograd.gradcheck(lambda p: error_of_largest(target, p, k, rows.detach(), active, beside), (pre,))


@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 5), st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_codes_and_gradients_equal_those_of_a_dense_encoder(
    n: int, d_sae: int, d_in: int, k: int, centred: bool, seed: int
) -> None:
    k, active = min(k, d_sae), random(n, seed=seed) > -0.5
    x, W, b = (random(*shape, seed=seed).requires_grad_() for shape in ((n, d_in), (d_sae, d_in), (d_sae,)))
    centre = random(d_in, seed=seed + 1).requires_grad_() if centred else None
    weights, wanted = random(n, k, seed=seed + 2), torch.arange(0, d_sae, 2)
    inputs = [W, b, x if centre is None else centre]

    def gradients(encode: Callable[..., tuple]) -> tuple:
        zeroed = torch.where(active.unsqueeze(1), x, 0)
        values, indices, known = encode(zeroed, W, b, k, active, centre, wanted)
        loss = (values * weights).sum() + known.square().sum()
        return values, indices, known, *torch.autograd.grad(loss, inputs)

    for fast, slow in zip(gradients(encode_topk), gradients(encode_topk_dense), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "k", "d_sae"), [(1, 1, 4), (3, 4, 4), (2, 2, 5)])
def test_gradcheck_of_every_output_for_every_input(n: int, k: int, d_sae: int) -> None:
    x, W, b, b_dec = (random(*s, seed=3).requires_grad_() for s in ((n, 3), (d_sae, 3), (d_sae,), (3,)))
    wanted = torch.tensor([1, 3])

    def codes(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        values, _, known = encode_topk(x, W, b, k, None, None, wanted)
        assert known is not None
        return values, known

    def of_centre(centre: Tensor) -> tuple[Tensor, Tensor]:
        values, _, known = encode_topk(x.detach() - centre, W, b, k, None, centre, wanted)
        assert known is not None
        return values, known

    assert torch.autograd.gradcheck(codes, (x, W, b))
    assert torch.autograd.gradcheck(of_centre, (b_dec,))
    indices, values = torch.randint(d_sae, (n, k)), random(n, k).requires_grad_()
    with torch.no_grad():
        values[0, 0] = 0
    assert torch.autograd.gradcheck(lambda v, w, c: sparse_decode(indices, v, w, c), (values, W, b_dec))
    mask = torch.arange(n) > 0
    assert torch.autograd.gradcheck(lambda a, c: squared_error(a, c, mask), (x, random(n, 3).requires_grad_()))
    torch.testing.assert_close(squared_error(x, x + b_dec, mask), squared_error_dense(x, x + b_dec, mask))


def test_no_token_and_no_active_token_give_no_codes_and_no_gradient() -> None:
    W, b = random(9, 4, dtype=torch.float32).requires_grad_(), torch.zeros(9)
    for n, active in ((0, None), (200, torch.zeros(200, dtype=torch.bool))):
        values, indices, _ = encode_topk(torch.zeros(n, 4), W, b, 3, active)
        assert values.shape == (n, 3) and not values.any() and not indices.any()
        (grad,) = torch.autograd.grad(values.sum() + 0 * W.sum(), [W])
        assert not grad.any()


def test_counts_of_active_slots() -> None:
    indices, values = torch.tensor([[0, 0, 2], [0, 1, 2]]), torch.tensor([[0.0, 0.0, 3.0], [1.0, 2.0, NAN]])
    features, tokens = count_active(indices, values, 4)
    assert features.tolist() == [1, 1, 2, 0] and tokens.tolist() == [1, 3]


@pytest.mark.parametrize("on_sphere", [False, True])
def test_a_fused_step_is_projection_clipping_adamw_and_normalisation(on_sphere: bool) -> None:
    w = random(5, 7)
    w /= w.norm(dim=1, keepdim=True)
    fast, slow = w.clone(), w.clone()
    moments = [Moments(torch.zeros_like(w), torch.zeros_like(w)) for _ in range(2)]
    for step in range(1, 4):
        grad = random(5, 7, seed=step)
        energy, along = gradient_energy(grad, fast, on_sphere)
        expected = (grad * slow).sum(1) if on_sphere else torch.zeros(5, dtype=torch.float64)
        torch.testing.assert_close(along, expected)
        torch.testing.assert_close(energy, (grad - expected.unsqueeze(1) * slow).square().sum(1))
        rates = Rates(1e-2, 0.9, 0.99, 1e-8, 0.1, step)
        adamw_(fast, grad, moments[0], along, rates, scale=0.5, on_sphere=on_sphere)
        adamw_dense_(slow, grad, moments[1], along, rates, scale=0.5, on_sphere=on_sphere)
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    assert (fast.norm(dim=1) - 1).abs().max() < 1e-12 or not on_sphere


@pytest.mark.parametrize("on_sphere", [False, True])
def test_moments_in_bfloat16_are_rounded_as_the_reference_rounds_them(on_sphere: bool) -> None:
    w = random(7, 300, dtype=torch.float32)
    w /= w.norm(dim=1, keepdim=True)
    fast, slow = w.clone(), w.clone()
    moments = [Moments(torch.zeros_like(w).bfloat16(), torch.zeros_like(w).bfloat16()) for _ in range(2)]
    for step in range(1, 5):
        grad = random(7, 300, seed=step, dtype=torch.float32)
        along, rates = torch.zeros(7), Rates(1e-2, 0.9, 0.999, 1e-8, 0.1, step)
        adamw_(fast, grad, moments[0], along, rates, on_sphere=on_sphere)
        adamw_dense_(slow, grad, moments[1], along, rates, on_sphere=on_sphere)
        torch.testing.assert_close(fast, slow, rtol=1e-2, atol=1e-4)
        for a, b in zip(*moments, strict=True):  # all but the few whose float32 sums differ by a rounding
            assert (a == b).float().mean() > 0.98


def test_a_slow_mean_in_bfloat16_arrives_where_float32_does() -> None:
    w, grad = torch.zeros(1, 4096), torch.ones(1, 4096)
    moments = Moments(torch.zeros_like(w).bfloat16(), torch.zeros_like(w).bfloat16())
    for step in range(1, 2001):
        adamw_(w, grad, moments, torch.zeros(1), Rates(1e-4, 0.9, 0.999, 1e-8, 0.0, step))
    expected = 1 - 0.999**2000
    assert abs(float(moments.square.float().mean()) - expected) < 0.005 * expected
    assert abs(float(moments.mean.float().mean()) - 1) < 0.005


def test_a_nan_in_one_gradient_is_seen_in_the_norm() -> None:
    grad = torch.ones(4, 3)
    grad[2, 1] = NAN
    assert gradient_energy(grad, torch.ones(4, 3) / 3**0.5, True)[0].isnan().tolist() == [False, False, True, False]
