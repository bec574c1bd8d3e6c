"""Depthwise taps equal their definition; products in bfloat16 stay within their bounds, where they are allowed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae import build
from chronosae.kernels import (
    Taps,
    compiled_kernels,
    decode_with_energy,
    dense_only,
    depthwise_taps,
    mix_taps,
    mixed,
    mixed_products,
    product,
    sparse_decode,
    tokens_at,
    unit_gram_energy,
)
from chronosae.kernels.taps import depthwise_taps_dense
from chronosae.objectives.separation import cosine_separation

pytestmark = pytest.mark.skipif(not compiled_kernels(torch.empty(0)), reason="no compiler here")


@given(st.integers(1, 2), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_depthwise_taps_equal_moved_copies_in_value_and_gradient(
    batch: int, pos: int, width: int, centred: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    lags = (-2, -1, 0, 1, 2) if centred else (0, 1, 2, 4)
    which = torch.tensor([[0, 2, 3], [1, 2, 0]])
    docs = (torch.rand(batch, pos, generator=g) > 0.7).long().cumsum(1)
    sources = tokens_at((batch, pos), lags, docs)
    x = torch.randn(batch * pos, width, generator=g, dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, 3, width, generator=g, dtype=torch.float64).requires_grad_()
    direction = torch.randn(batch * pos, 2, width, generator=g, dtype=torch.float64)
    fast = depthwise_taps(x, weights, which, lags, sources)
    dense = depthwise_taps_dense(x, weights, which, sources)
    torch.testing.assert_close(fast, dense, rtol=1e-12, atol=1e-12)
    found, expected = (torch.autograd.grad((y * direction).sum(), (x, weights)) for y in (fast, dense))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a, w: depthwise_taps(a, w, which, lags, sources), (x, weights))


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "low_precision_pays", lambda: True)


@pytest.mark.usefixtures("pays")
def test_a_mixed_product_and_its_gradients_are_off_by_less_than_a_hundredth() -> None:
    g = torch.Generator().manual_seed(0)
    x, W = torch.randn(200, 96, generator=g).requires_grad_(), torch.randn(96, 40, generator=g).requires_grad_()
    direction = torch.randn(200, 40, generator=g)
    with mixed_products():
        fast = product(x, W)
    slow = x @ W
    assert not torch.equal(fast, slow) and torch.equal(product(x, W), slow)
    pairs = [(fast, slow)]
    for a, b in zip(*(torch.autograd.grad((y * direction).sum(), (x, W)) for y in (fast, slow)), strict=True):
        pairs.append((a, b))
    assert all((a - b).norm() < 0.01 * b.norm() for a, b in pairs)
    with mixed_products(), dense_only():
        assert torch.equal(product(x, W), slow)
    with mixed_products():
        assert torch.equal(product(x[:5], W), slow[:5])  # a few tokens, as in a stream


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_mixed_cosine_separation_is_within_its_bounds(spread: float) -> None:
    g = torch.Generator().manual_seed(1)
    common = spread * torch.randn(64, generator=g)
    W = ((torch.randn(1000, 64, generator=g) + common) * torch.rand(1000, 1, generator=g)).requires_grad_()
    fast, slow = cosine_separation(W, mixed=True), cosine_separation(W)
    (a,), (b,) = torch.autograd.grad(fast, [W]), torch.autograd.grad(slow, [W])
    assert abs(float(fast.detach() - slow.detach())) < 1e-3 * float(slow.detach())
    assert 0 < (a - b).norm() < 0.01 * b.norm()


@pytest.mark.usefixtures("pays")
def test_decoding_with_the_cosine_terms_energy_equals_both_alone() -> None:
    g = torch.Generator().manual_seed(2)
    W = torch.randn(700, 300, generator=g).requires_grad_()  # more than one panel of columns
    values, bias = torch.rand(2, 5, 3, generator=g).requires_grad_(), torch.randn(300, generator=g).requires_grad_()
    values.data[0, 0] = 0
    indices, direction = torch.randint(700, (2, 5, 3), generator=g), torch.randn(2, 5, 300, generator=g)
    both = decode_with_energy(indices, values, W, bias)
    alone = unit_gram_energy(W)
    assert both is not None and alone is not None
    recon = sparse_decode(indices, values, W, bias)
    assert torch.equal(both[0], recon) and torch.equal(both[1], alone)
    for weight, share in ((1e-2, 1), (1e-2, 0), (0, 1)):
        found, expected = (
            torch.autograd.grad(share * (y * direction).sum() + weight * e, (values, W, bias), retain_graph=True)
            for y, e in (both, (recon, alone))
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    (only,), (expected,) = (torch.autograd.grad(e, [W], retain_graph=True) for e in (both[1], alone))
    assert torch.equal(only, expected)
    with dense_only():
        assert decode_with_energy(indices, values, W, bias) is None


@pytest.mark.usefixtures("pays")
def test_a_training_pass_makes_the_cosine_terms_energy_on_its_way() -> None:
    terms = []
    for weight in (0.1, 0.0):
        sae = build("multiscale", d_in=8, d_sae=32, k=4, placement="input", cosine_weight=weight)
        with torch.no_grad():
            sae.W_dec.mul_(torch.rand(32, 1, generator=torch.Generator().manual_seed(3)) + 0.5)
        x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(4))
        step = sae.training_pass(x, torch.ones(2, 6, dtype=torch.bool))
        assert (step.gram_energy is None) == (weight == 0)
        terms.append(cosine_separation(sae.W_dec, mixed=True, energy=step.gram_energy))
    torch.testing.assert_close(*terms)


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("rank", [None, 5])
@pytest.mark.parametrize("n_taps", [2, 3, 4])
def test_taps_mixed_in_one_go_are_within_a_hundredth_of_each_step_alone(rank: int | None, n_taps: int) -> None:
    g = torch.Generator().manual_seed(n_taps)
    batch, pos, width, lags = 3, 67, 70, (-1, 0, 1, 2, 4)
    docs = (torch.rand(batch, pos, generator=g) > 0.9).long().cumsum(1)
    which = torch.randint(len(lags), (2, n_taps), generator=g)
    taps = Taps(which, lags, tokens_at((batch, pos), lags, docs))
    shapes = [(batch * pos, width), (2, n_taps, width), *([(2 * width, width)] if rank is None else [])]
    shapes += [] if rank is None else [(2 * width, rank), (rank, width)]
    x, weights, *factors = (torch.randn(shape, generator=g).requires_grad_() for shape in shapes)
    direction = torch.randn(batch * pos, width, generator=g)
    first = None if rank is None else factors[0]
    with mixed_products():
        fast = mix_taps(x, weights, first, factors[-1], taps)
    assert fast is not None and mix_taps(x, weights, first, factors[-1], taps) is None
    slow = depthwise_taps(x, weights, *taps).flatten(1)
    for factor in factors:
        slow = slow @ factor
    slow = x + slow
    pairs = [(fast, slow)]
    inputs = x, weights, *factors
    found, expected = (torch.autograd.grad((y * direction).sum(), inputs) for y in (fast, slow))
    pairs.extend(zip(found, expected, strict=True))
    assert all(0 < (a - b).norm() < 0.01 * b.norm() for a, b in pairs)
    with mixed_products(), dense_only():
        assert mix_taps(x, weights, first, factors[-1], taps) is None
