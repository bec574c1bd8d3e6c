"""Features that look back and are weighed by place: chosen exactly, and with the gradients of dense arithmetic."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.kernels import (
    Lookback,
    PositionWeights,
    compiled_kernels,
    encode_topk_in_context,
    encode_topk_in_context_dense,
    exact_choice,
    largest_positive,
    loops,
    tokens_at,
)
from chronosae.kernels import encode as module
from chronosae.kernels.reference import LEAST_TOKENS, compared

pytestmark = pytest.mark.skipif(not compiled_kernels(torch.empty(0)), reason="no compiler here")
BATCH, POS, D, F, LAGS = 2, 70, 24, 500, (1, 2, 4, 8, 9)
DOCS = (torch.arange(POS) // 30).expand(BATCH, POS).contiguous()


def case(
    seed: int = 0, lags: tuple[int, ...] = LAGS, d: int = D
) -> tuple[Tensor, Tensor, Tensor, Lookback, PositionWeights]:
    g = torch.Generator().manual_seed(seed)
    x, W, bias = torch.randn(BATCH * POS, d, generator=g), torch.randn(F, d, generator=g), torch.randn(F, generator=g)
    back = Lookback(0.3 * torch.randn(len(lags), F, generator=g), lags, tokens_at((BATCH, POS), lags, DOCS))
    weigh = PositionWeights(torch.rand(POS, F, generator=g).sub(0.2).clamp_min(0), torch.arange(BATCH * POS) % POS)
    return x, W, bias, back, weigh


NOWHERE = Lookback(torch.zeros(0, F), (), torch.zeros(0, BATCH * POS, dtype=torch.int64))


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 whether or not this CPU is fast at them."""
    monkeypatch.setattr(module, "low_precision_pays", lambda: True)
    assert BATCH * POS >= LEAST_TOKENS


def exact(
    x: Tensor, W: Tensor, bias: Tensor, k: int, back: Lookback, weigh: PositionWeights | None
) -> tuple[Tensor, Tensor]:
    """The definition: every pre-activation in the one fixed order, then the largest."""
    (n, f) = len(x), len(W)
    assert compiled_kernels(x)
    products, pre = torch.zeros(1, len(back.lags)).numpy(), torch.zeros(n, f)
    arrays = x.numpy(), W.numpy()
    rest = bias.numpy(), back.taps.numpy(), back.sources.numpy()
    every = torch.arange(f, dtype=torch.int32).numpy()
    for t in range(n):
        for feature in range(f):
            # One at a time: whoever is computed beside it makes no difference.
            one = every[feature : feature + 1]
            loops.context.exact_entries(*arrays, t, one, 0, 1, *rest, pre[t, feature : feature + 1].numpy(), products)
    best, indices = largest_positive(compared(pre, weigh), k)
    return torch.where(best != 0, pre.gather(1, indices), 0), indices


def assert_exact(k: int, x: Tensor, W: Tensor, bias: Tensor, back: Lookback, weigh: PositionWeights | None) -> None:
    values, indices, _ = encode_topk_in_context(x, W, bias, k, back, weigh)
    expected, places = exact(x, W, bias, k, back, weigh)
    assert torch.equal(indices, places)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("what", ["lags", "weigh", "both"])
def test_values_and_choice_are_bit_equal_to_computing_everything(k: int, what: str) -> None:
    x, W, bias, back, weigh = case()
    assert_exact(k, x, W, bias, NOWHERE if what == "weigh" else back, None if what == "lags" else weigh)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("d", [1, 7, 33, 100])
@pytest.mark.parametrize("weighed", [False, True])
def test_four_lags_in_one_pass_are_bit_equal_whatever_the_width(d: int, weighed: bool) -> None:
    x, W, bias, back, weigh = case(7, LAGS[:4], d)
    assert_exact(9, x, W, bias, back, weigh if weighed else None)


@pytest.mark.usefixtures("everywhere")
def test_near_ties_and_ties_are_told_apart() -> None:
    x, W, bias, back, weigh = case(1)
    near = W[:1] * (1 + 1e-6 * torch.randn(F, 1, generator=torch.Generator().manual_seed(2)))
    same = Lookback(back.taps[:, :1].expand(-1, F).contiguous(), LAGS, back.sources)
    assert_exact(8, x, near, torch.zeros(F), same, None)
    equal = encode_topk_in_context(x, W[:1].expand(F, -1).contiguous(), bias[:1].expand(F) + 100, 5, same)[1]
    assert (equal == torch.arange(5)).all()
    level = PositionWeights(torch.ones_like(weigh.weights), weigh.rows)
    assert_exact(8, x, near, torch.zeros(F), same, level)


@pytest.mark.usefixtures("everywhere")
def test_taps_and_weights_of_very_different_size_change_nothing() -> None:
    x, W, bias, back, weigh = case(3)
    scales = 10 ** torch.linspace(-6, 3, F)
    wild = Lookback(back.taps * scales.flip(0), LAGS, back.sources)
    assert_exact(8, x, W * scales.unsqueeze(1), bias, wild, PositionWeights(weigh.weights * scales.roll(7), weigh.rows))


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_a_number_that_is_none_stays_visible(bad: float) -> None:
    for place in ("x", "W", "taps", "bias"):
        x, W, bias, back, weigh = case(4)
        {"x": x, "W": W, "taps": back.taps, "bias": bias.unsqueeze(0)}[place][0, 3] = bad
        values = encode_topk_in_context(x, W, bias, 6, back, weigh)[0]
        assert not torch.isfinite(values).all() or bad == 3e38, place


@pytest.mark.usefixtures("everywhere")
def test_codes_depend_neither_on_chunks_nor_on_masked_tokens_nor_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, W, bias, back, weigh = case(5)
    active = torch.arange(len(x)) % 7 > 0
    x[~active] = 0
    whole = encode_topk_in_context(x, W, bias, 8, back, weigh, active)
    assert not whole[0][~active].any() and not whole[1][~active].any()
    expected = encode_topk_in_context_dense(x, W, bias, 8, back, weigh, active)
    assert torch.equal(whole[1], expected[1])
    monkeypatch.setattr(exact_choice, "CHUNK", 11 * F)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    again = encode_topk_in_context(x, W, bias, 8, back, weigh, active)
    torch.set_num_threads(threads)
    assert torch.equal(whole[0], again[0]) and torch.equal(whole[1], again[1])


@pytest.mark.usefixtures("everywhere")
def test_tokens_that_the_bound_leaves_undecided_are_decided_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    x, W, bias, back, weigh = case(6)
    expected = encode_topk_in_context(x, W, bias, 8, back, weigh)
    near = W[:1].expand(F, -1) * (1 + 1e-4 * torch.randn(F, 1, generator=torch.Generator().manual_seed(2)))
    assert_exact(4, x, near.contiguous(), torch.zeros(F), Lookback(back.taps * 0, LAGS, back.sources), None)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")  # so that every one is scanned
    again = encode_topk_in_context(x * 1, W, bias, 8, back, weigh)
    assert torch.equal(expected[0], again[0])
    assert_exact(4, x, near.contiguous(), torch.zeros(F), Lookback(back.taps * 0, LAGS, back.sources), None)


@given(
    batch=st.integers(1, 2),
    pos=st.integers(1, 6),
    d_sae=st.integers(1, 6),
    k=st.integers(1, 6),
    lags=st.sampled_from([(), (1,), (1, 3), (1, 2, 3, 4, 5)]),
    weighed=st.booleans(),
    centred=st.booleans(),
    seed=st.integers(0, 99),
)
def test_codes_and_gradients_equal_those_of_dense_arithmetic(
    batch: int, pos: int, d_sae: int, k: int, lags: tuple[int, ...], weighed: bool, centred: bool, seed: int
) -> None:
    g, n, k = torch.Generator().manual_seed(seed), batch * pos, min(k, d_sae)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    active, docs = random(n) > -0.7, (random(batch, pos) > 0.8).long().cumsum(1)
    x, W, bias, taps = random(n, 3), random(d_sae, 3), random(d_sae), random(len(lags), d_sae)
    centre, weights, wanted = random(3) if centred else None, random(n, k), torch.arange(0, d_sae, 2)
    weigh = PositionWeights(random(pos, d_sae).clamp_min(0), torch.arange(n) % pos) if weighed else None
    inputs = [t.requires_grad_() for t in (W, bias, taps, x if centre is None else centre)]

    def gradients(encode) -> tuple:
        zeroed = torch.where(active.unsqueeze(1), x, 0)
        back = Lookback(taps, lags, tokens_at((batch, pos), lags, docs))
        values, indices, known = encode(zeroed, W, bias, k, back, weigh, active, centre, wanted)
        loss = (values * weights).sum() + known.square().sum() + 0 * sum(t.sum() for t in inputs)
        return values, indices, known, *torch.autograd.grad(loss, inputs)

    for fast, slow in zip(gradients(encode_topk_in_context), gradients(encode_topk_in_context_dense), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


def test_gradcheck_of_every_output_for_every_input() -> None:
    g = torch.Generator().manual_seed(1)
    x, W, bias, taps = (
        torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()
        for shape in ((6, 3), (5, 3), (5,), (2, 5))
    )
    weigh = PositionWeights(torch.rand(3, 5, generator=g, dtype=torch.float64), torch.arange(6) % 3)
    sources, wanted = tokens_at((2, 3), (1, 2), None), torch.tensor([0, 4])

    def codes(x: Tensor, W: Tensor, bias: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        values, _, known = encode_topk_in_context(
            x, W, bias, 2, Lookback(taps, (1, 2), sources), weigh, None, None, wanted
        )
        assert known is not None
        return values, known

    assert torch.autograd.gradcheck(codes, (x, W, bias, taps))


def test_no_token_and_no_active_token_give_no_codes_and_no_gradient() -> None:
    W, bias, taps = torch.randn(9, 4).requires_grad_(), torch.zeros(9), torch.ones(1, 9)
    for n, active in ((0, None), (200, torch.zeros(200, dtype=torch.bool))):
        back = Lookback(taps, (1,), tokens_at((1, n), (1,), None))
        values, indices, _ = encode_topk_in_context(torch.zeros(n, 4), W, bias, 3, back, None, active)
        assert values.shape == (n, 3) and not values.any() and not indices.any()
        (grad,) = torch.autograd.grad(values.sum() + 0 * W.sum(), [W])
        assert not grad.any()


def test_neighbours_are_of_the_same_sequence_and_document() -> None:
    docs = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    found = tokens_at((2, 4), (1, -2, 4), docs).view(3, 2, 4)
    assert found[0].tolist() == [[-1, 0, -1, 2], [-1, 4, 5, 6]]
    assert found[1].tolist() == [[-1, -1, -1, -1], [6, 7, -1, -1]]
    assert (found[2] == -1).all()
