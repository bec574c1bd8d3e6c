"""The Triton kernels equal dense arithmetic: choices exactly, values and gradients to rounding.

They run on a GPU where there is one, else under Triton's interpreter (`TRITON_INTERPRET=1`), else not at all.
"""

import math
import os
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
    count_active,
    dense_decode,
    dense_only,
    encode_threshold,
    encode_topk,
    encode_topk_dense,
    gradient_energy,
    largest_positive,
    largest_positive_dense,
    scatter_dense,
    sparse_decode,
    squared_error,
    squared_error_dense,
    triton_kernels,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
os.environ.setdefault("CHRONOSAE_KERNELS", "triton")  # on a GPU they are to be asked for
GPU = triton_kernels(torch.empty(0, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(not GPU, reason="needs Triton, and a GPU or TRITON_INTERPRET=1"),
    # The interpreter's arrays warn of what a GPU does in silence: Inf - Inf.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
INF, NAN, TINY = math.inf, math.nan, 1e-41


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


def same(fast: tuple, slow: tuple, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@given(
    st.integers(1, 4),
    st.integers(1, 1500),
    st.integers(1, 1500),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 99),
)
def test_the_largest_are_found_without_sorting(n: int, width: int, k: int, dtype: torch.dtype, seed: int) -> None:
    pre, k = random(n, width, seed=seed, dtype=torch.float32).to(dtype), min(k, width)
    values, indices = largest_positive(pre, k)
    # In bfloat16 many entries are equal: of equal ones the first, as a stable sort has it.
    order = pre.sort(dim=1, descending=True, stable=True)
    expected = torch.where(order.values[:, :k] > 0, order.indices[:, :k], 0).sort(1).values
    assert torch.equal(indices, expected)
    assert torch.equal(values.sort().values, largest_positive_dense(pre, k)[0].sort().values)


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
        ([5.0] * 400 + [6.0], 3, [0, 1, 400], [5.0, 5.0, 6.0]),
        ([NAN] * 400, 2, [0, 1], [NAN, NAN]),
    ],
)
def test_ties_go_to_the_first_and_odd_values_stay_visible(row: list, k: int, indices: list, values: list) -> None:
    # Among others that are never chosen; one row of them only, which is no candidate.
    pre = torch.tensor([row + [-3.0] * 300, [-1.0] * (300 + len(row))], device=DEVICE)
    found, where = largest_positive(pre, k)
    assert where.tolist() == [indices, [0] * k]
    torch.testing.assert_close(found[0].cpu(), torch.tensor(values), rtol=0, atol=0, equal_nan=True)
    assert not found[1].any()


def test_many_candidates_in_one_group_are_bisected() -> None:
    # The largest 500 entries stand where one group's would: the bound lets all through that are positive.
    pre = torch.full((1, 8192), -1.0, device=DEVICE)
    pre[0, ::16] = torch.arange(1.0, 513.0, device=DEVICE)
    values, indices = largest_positive(pre, 65)
    assert torch.equal(values[0].cpu(), torch.arange(448.0, 513.0))
    assert torch.equal(indices[0].cpu(), torch.arange(447, 512) * 16)


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 20), st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_codes_and_gradients_equal_those_of_a_dense_encoder(
    n: int, d_sae: int, d_in: int, k: int, centred: bool, seed: int
) -> None:
    k, active = min(k, d_sae), random(n, seed=seed) > -0.5
    x, W, b = (random(*shape, seed=seed).requires_grad_() for shape in ((n, d_in), (d_sae, d_in), (d_sae,)))
    centre = random(d_in, seed=seed + 1).requires_grad_() if centred else None
    weights, wanted = random(n, k, seed=seed + 2), torch.arange(0, d_sae, 2, device=DEVICE)
    inputs = [W, b, x if centre is None else centre]

    def gradients(encode: Callable[..., tuple]) -> tuple:
        zeroed = torch.where(active.unsqueeze(1), x, 0)
        values, indices, known = encode(zeroed, W, b, k, active, centre, wanted)
        loss = (values * weights).sum() + known.square().sum()
        return values, indices, known, *torch.autograd.grad(loss, inputs)

    same(gradients(encode_topk), gradients(encode_topk_dense))


@pytest.mark.parametrize(("n", "d_in", "d_sae", "k"), [(3, 40, 33, 2), (1, 130, 600, 600), (2, 16, 1500, 1)])
@pytest.mark.parametrize("far", [False, True])
def test_a_product_in_low_precision_chooses_as_exact_arithmetic_does(
    n: int, d_in: int, d_sae: int, k: int, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronosae.kernels.gpu.encode.LEAST_TOKENS", 1)
    x, W = random(n, d_in, dtype=torch.float32), random(d_sae, d_in, seed=1, dtype=torch.float32)
    b = random(d_sae, seed=2, dtype=torch.float32)
    if far:  # A direction that all share leaves nothing for the bound to decide by.
        x[:, 0] = W[:, 0] = 100
    values, indices, _ = encode_topk(x, W, b, k)
    exact = (x.double() @ W.double().T + b.double()).float()
    slow, where = largest_positive_dense(exact, k)
    assert torch.equal(indices, where)
    torch.testing.assert_close(values, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("odd", [NAN, INF, 1e38])
def test_an_odd_token_stays_visible_and_leaves_its_neighbours_alone(
    odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chronosae.kernels.gpu.encode.LEAST_TOKENS", 1)
    x, W, b = (random(*shape, dtype=torch.float32) for shape in ((3, 8), (40, 8), (40,)))
    alone = encode_topk(x, W, b, 4)
    x[1, 3] = odd
    values, indices, _ = encode_topk(x, W, b, 4)
    assert torch.equal(values[[0, 2]], alone[0][[0, 2]]) and torch.equal(indices[[0, 2]], alone[1][[0, 2]])
    expected = encode_topk_dense(x, W, b, 4)[0][1]
    torch.testing.assert_close(values[1].sort().values, expected.sort().values, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_under_autocast_codes_and_gradients_are_those_of_a_dense_encoder() -> None:
    x, W, b, D, c = (random(*s, seed=7, dtype=torch.float32) for s in ((5, 48), (70, 48), (70,), (70, 48), (48,)))
    parameters = [t.requires_grad_() for t in (W, b, D, c)]

    def gradients(encode: Callable[..., tuple]) -> tuple:
        with torch.autocast(DEVICE, torch.bfloat16):
            values, indices, _ = encode(x, W, b, 3)
            recon = sparse_decode(indices, values, D, c)
            loss = squared_error(x, recon, torch.ones(5, dtype=torch.bool, device=DEVICE))
        return values.float(), indices, *torch.autograd.grad(loss, parameters)

    fast = gradients(encode_topk)
    with dense_only():
        slow = gradients(encode_topk_dense)
    assert torch.equal(fast[1], slow[1]) and torch.equal(fast[0], slow[0])
    for a, e in zip(fast[2:], slow[2:], strict=True):
        assert (a - e).norm() <= 2**-7 * e.norm()


@pytest.mark.parametrize(("count", "autocast"), [(1, False), (9, False), (9, True), (400, False), (None, False)])
def test_one_threshold_for_a_batch_keeps_what_a_dense_encoder_would(count: int | None, autocast: bool) -> None:
    x, W, b = (random(*s, seed=5, dtype=torch.float32).requires_grad_() for s in ((5, 8), (40, 8), (40,)))
    active = torch.tensor([True, True, False, True, True], device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        chosen, threshold = encode_threshold(x, W, b, active, count=count, threshold=1.5)
        pre = torch.where(active.unsqueeze(1), x @ W.T + b, 0)
    positive = pre[pre > 0].sort(descending=True).values
    expected = torch.tensor(1.5) if count is None else positive[min(count, len(positive)) - 1]
    torch.testing.assert_close(threshold, expected.to(DEVICE))
    dense = torch.where(pre >= threshold * (1 - 1e-6), pre, 0) * (pre > 0)
    values, indices, _ = chosen
    torch.testing.assert_close(scatter_dense(indices, values, 40), dense)
    unused = values == 0
    assert not indices[unused].any() and (unused.int().diff(dim=1) <= 0).all() and not unused.all(0).any()
    slopes = random(5, 40, seed=6, dtype=torch.float32)
    fast, slow = (
        torch.autograd.grad((slopes * c).sum(), [x, W, b]) for c in (scatter_dense(indices, values, 40), dense)
    )
    tolerance = 2**-6 if autocast else 1e-5
    assert all((a - e).norm() <= tolerance * e.norm() for a, e in zip(fast, slow, strict=True))


def test_a_token_with_more_entries_than_are_taken_asks_for_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chronosae.kernels.gpu.encode.LEAST", 2)
    x, W, b = torch.eye(9, device=DEVICE), torch.zeros(40, 9, device=DEVICE), torch.zeros(40, device=DEVICE)
    W[:10, 0] = 5
    assert encode_threshold(x, W, b, count=9) is None
    W[:8, 0] = 0
    assert encode_threshold(x, W, b, count=9) is not None


@pytest.mark.parametrize(("n", "masked"), [(0, False), (0, True), (2, True)])
def test_no_token_and_no_active_token_give_no_codes_and_no_gradient(n: int, masked: bool) -> None:
    W, b = random(9, 4, dtype=torch.float32).requires_grad_(), torch.zeros(9, device=DEVICE)
    active = torch.zeros(n, dtype=torch.bool, device=DEVICE) if masked else None
    values, indices, _ = encode_topk(torch.zeros(n, 4, device=DEVICE), W, b, 3, active)
    assert values.shape == indices.shape == (n, 3) and not values.any() and not indices.any()
    (grad,) = torch.autograd.grad(values.sum() + 0 * W.sum(), [W])
    assert not grad.any()


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 9), st.integers(1, 300), st.integers(0, 99))
def test_sparse_decoding_equals_a_dense_product(n: int, slots: int, d_sae: int, d_in: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(d_sae, (n, slots), generator=generator).to(DEVICE)
    values, W, b = (random(*s, seed=seed).requires_grad_() for s in ((n, slots), (d_sae, d_in), (d_in,)))
    slopes = random(n, d_in, seed=seed + 1)
    with torch.no_grad():
        values[:, ::3] = 0

    def gradients(recon: Tensor) -> tuple:
        return recon, *torch.autograd.grad((recon * slopes).sum(), [values, W, b])

    same(gradients(sparse_decode(indices, values, W, b)), gradients(dense_decode(indices, values, W) + b))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_busy_feature_is_summed_in_segments(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chronosae.kernels.gpu.slots.SEGMENT", 3)
    indices = torch.tensor([[0, 2]] * 11 + [[1, 2]], device=DEVICE)
    values, W = random(12, 2).requires_grad_(), random(4, 5).requires_grad_()
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        fast = torch.autograd.grad(sparse_decode(indices, values, W).square().sum(), [values, W])
    finally:
        torch.use_deterministic_algorithms(was)
    same(fast, torch.autograd.grad(dense_decode(indices, values, W).square().sum(), [values, W]))


@pytest.mark.parametrize(("n", "k", "d_sae"), [(1, 1, 4), (2, 4, 4)])
def test_gradcheck_of_every_output_for_every_input(n: int, k: int, d_sae: int) -> None:
    x, W, b, b_dec = (random(*s, seed=3).requires_grad_() for s in ((n, 3), (d_sae, 3), (d_sae,), (3,)))
    wanted = torch.tensor([1, 3], device=DEVICE)

    def codes(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        values, _, known = encode_topk(x, W, b, k, None, None, wanted)
        return values, known

    def of_centre(centre: Tensor) -> tuple[Tensor, Tensor]:
        values, _, known = encode_topk(x.detach() - centre, W, b, k, None, centre, wanted)
        return values, known

    assert torch.autograd.gradcheck(codes, (x, W, b))
    assert torch.autograd.gradcheck(of_centre, (b_dec,))
    indices, values = torch.arange(n * k, device=DEVICE).view(n, k) % d_sae, random(n, k).requires_grad_()
    with torch.no_grad():
        values[0, 0] = 0
    assert torch.autograd.gradcheck(lambda v, w, c: sparse_decode(indices, v, w, c), (values, W, b_dec))
    mask = torch.arange(n, device=DEVICE) > 0
    assert torch.autograd.gradcheck(lambda a, c: squared_error(a, c, mask), (x, random(n, 3).requires_grad_()))
    torch.testing.assert_close(squared_error(x, x + b_dec, mask), squared_error_dense(x, x + b_dec, mask))


def test_what_masked_tokens_hold_does_not_reach_the_error() -> None:
    target, estimate = random(2, 1100, dtype=torch.float32), random(2, 1100, seed=1, dtype=torch.float32)
    target[0] = NAN
    estimate.requires_grad_()
    error = squared_error(target, estimate, torch.tensor([False, True], device=DEVICE))
    torch.testing.assert_close(error, (target[1] - estimate[1]).square().sum())
    (grad,) = torch.autograd.grad(error, [estimate])
    assert not grad[0].any() and grad[1].isfinite().all()


def test_counts_of_active_slots() -> None:
    indices = torch.tensor([[0, 0, 2], [0, 1, 2]], device=DEVICE)
    values = torch.tensor([[0.0, 0.0, 3.0], [1.0, 2.0, NAN]], device=DEVICE)
    features, tokens = count_active(indices, values, 4)
    assert features.tolist() == [1, 1, 2, 0] and tokens.tolist() == [1, 3]


@pytest.mark.parametrize("width", [7, 2500])
@pytest.mark.parametrize("on_sphere", [False, True])
def test_a_fused_step_is_projection_clipping_adamw_and_normalisation(width: int, on_sphere: bool) -> None:
    w = random(3, width, dtype=torch.float32)
    w /= w.norm(dim=1, keepdim=True)
    fast, slow = w.clone(), w.clone()
    moments = [Moments(torch.zeros_like(w), torch.zeros_like(w)) for _ in range(2)]
    for step in range(1, 4):
        grad = random(3, width, seed=step, dtype=torch.float32)
        energy, along = gradient_energy(grad, fast, on_sphere)
        expected = (grad * slow).sum(1) if on_sphere else torch.zeros(3, device=DEVICE)
        torch.testing.assert_close(along, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(energy, (grad - expected.unsqueeze(1) * slow).square().sum(1), rtol=1e-4, atol=1e-4)
        rates = Rates(1e-2, 0.9, 0.99, 1e-8, 0.1, step)
        adamw_(fast, grad, moments[0], along, rates, scale=0.5, on_sphere=on_sphere)
        adamw_dense_(slow, grad, moments[1], along, rates, scale=0.5, on_sphere=on_sphere)
        same((fast, *moments[0]), (slow, *moments[1]), rtol=1e-4, atol=1e-5)
    assert (fast.norm(dim=1) - 1).abs().max() < 1e-6 or not on_sphere


def test_the_clip_factor_may_stay_on_the_device() -> None:
    steps = []
    for scale in (0.25, torch.tensor(0.25, device=DEVICE)):
        w, grad = random(2, 3, dtype=torch.float32), random(2, 3, seed=1, dtype=torch.float32)
        moments = Moments(torch.zeros_like(w), torch.zeros_like(w))
        adamw_(w, grad, moments, torch.zeros(2, device=DEVICE), Rates(0.1, 0.9, 0.99, 1e-8, 0.0, 1), scale=scale)
        steps.append((w, *moments))
    same(*steps, rtol=0, atol=0)


def test_moments_in_bfloat16_follow_those_in_float32() -> None:
    w, grad, along = (torch.zeros(*shape, device=DEVICE) for shape in ((1, 1000), (1, 1000), (1,)))
    moments = Moments(*(torch.ones_like(w, dtype=torch.bfloat16) for _ in range(2)))
    for step in range(1, 41):
        adamw_(w, grad, moments, along, Rates(0.0, 0.9, 0.999, 1e-8, 0.0, step))
    # To nearest, the squares would still be 1: each step takes less than half a unit in the last place.
    assert abs(moments.square.float().mean().item() / 0.999**40 - 1) < 3e-3
    moments.mean.fill_(INF)
    adamw_(w, grad, moments, along, Rates(0.0, 0.9, 0.999, 1e-8, 0.0, 1))
    assert moments.mean.isinf().all()


def test_dense_only_keeps_triton_out() -> None:
    with dense_only():
        assert not triton_kernels(torch.empty(0, device=DEVICE))
    assert not triton_kernels(torch.empty(0, device=DEVICE, dtype=torch.int64))
    assert triton_kernels(torch.empty(0, device=DEVICE))
