"""Noise is normal, depends on key, place and channel alone, and is the same with and without compiled loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.kernels import add_normal, dense_only
from chronosae.kernels.elementwise import add_normal_dense


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return add_normal(torch.zeros(3000, 400), 1.0, [5, 6, -7]).double()


def test_noise_has_the_moments_and_tails_of_a_normal_distribution(noise: torch.Tensor) -> None:
    spread = noise.numel() ** -0.5
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(noise.pow(power).mean()) - mean) < 5 * variance**0.5 * spread
    for bound in (-3.0, -1.0, 0.0, 0.5, 2.0, 4.0):
        share = 0.5 * math.erfc(bound / 2**0.5)
        assert float((noise > bound).double().mean()) == pytest.approx(share, abs=5 * share**0.5 * spread)


def test_noise_has_no_pattern_over_channels_places_and_sequences(noise: torch.Tensor) -> None:
    first, _, third = noise.split(1000)
    pairs = [(noise[:, 1:], noise[:, :-1]), (noise[:, :200], noise[:, 200:]), (noise[1:], noise[:-1]), (first, third)]
    for a, b in pairs:
        for f in (torch.Tensor.clone, torch.square):  # Box and Muller's pairs share a radius; their squares tell
            x, y = f(a) - f(a).mean(), f(b) - f(b).mean()
            assert abs(float((x * y).mean() / (x.std() * y.std()))) < 5 * a.numel() ** -0.5


@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
def test_compiled_noise_equals_the_reference_and_leaves_the_gradient_alone(
    batch: int, pos: int, width: int, dtype: torch.dtype
) -> None:
    x = torch.randn(batch * pos, width, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    keys = [2**63 - 1, -(2**63), 0, 2**63][:batch]
    fast, slow = add_normal(x, 0.7, keys), add_normal_dense(x, 0.7, keys)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)
    (slope,) = torch.autograd.grad((fast * fast.detach()).sum(), [x])
    torch.testing.assert_close(slope, fast.detach())
    with dense_only():
        assert torch.equal(add_normal(x, 0.7, keys), slow)


def test_noise_depends_on_key_and_place_alone_whatever_the_threads() -> None:
    x, threads = torch.zeros(80, 6), torch.get_num_threads()
    whole = add_normal(x, 1.0, [1, 2])
    alone = [add_normal(x[:30], 1.0, [key]) for key in (1, 2)]
    assert torch.equal(torch.cat(alone), whole[[*range(30), *range(40, 70)]])
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(add_normal(x, 1.0, [1, 2]), whole)
    finally:
        torch.set_num_threads(threads)
