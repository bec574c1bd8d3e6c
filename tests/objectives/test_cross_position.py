"""The cross-position penalty against the variance of dense means by position."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.objectives.consistency import cross_position_error

EPS = 1e-6


def position_by_position(z: Tensor, mask: Tensor, positions: Tensor, min_count: int) -> Tensor:
    """DESIGN's formula as written."""
    z, at = z[mask], positions[mask]
    groups = [z[at == p] for p in at.unique() if (at == p).sum() >= min_count]
    fired = (z != 0).any(0)
    if len(groups) < 2 or not fired.any():
        return z.sum() * 0
    variance = torch.stack([g.mean(0) for g in groups]).var(0, correction=0)
    noise = torch.stack([g.var(0) / len(g) for g in groups]).mean(0) * (1 - 1 / len(groups))
    return ((variance - noise) / (z.square().mean(0) + EPS))[fired].mean()


@given(
    batch=st.integers(1, 8),
    pos=st.integers(1, 6),
    seed=st.integers(0, 1000),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    min_count=st.integers(2, 4),
)
def test_it_equals_the_variance_of_means_less_their_noise_and_so_does_its_gradient(
    batch: int, pos: int, seed: int, masked: float, min_count: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    indices = torch.rand(batch, pos, 9, generator=g).topk(3, -1).indices.sort(-1).values
    values = torch.randn(batch, pos, 3, generator=g, dtype=torch.float64).requires_grad_()
    mask = torch.rand(batch, pos, generator=g) >= masked
    positions = mask.cumsum(1) - 1
    codes = SparseCodes(values, None, indices, 9)
    fast = cross_position_error(codes, mask, positions, EPS, min_count)
    slow = position_by_position(codes.dense(), mask, positions, min_count)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    dense = cross_position_error(DenseCodes(codes.dense(), None), mask, positions, EPS, min_count)
    torch.testing.assert_close(dense, fast, rtol=1e-10, atol=1e-10)
    fast_grad, slow_grad = (torch.autograd.grad(x, values)[0] for x in (fast, slow))
    torch.testing.assert_close(fast_grad, slow_grad, rtol=1e-10, atol=1e-10)


def test_it_is_zero_on_average_where_position_does_not_matter_and_the_variance_of_means_where_it_does() -> None:
    g = torch.Generator().manual_seed(0)
    mask, positions = torch.ones(16, 10, dtype=torch.bool), torch.arange(10).expand(16, 10)
    noise = torch.randn(16, 10, 2000, generator=g, dtype=torch.float64)
    assert abs(float(cross_position_error(DenseCodes(noise, None), mask, positions))) < 1e-3, "uncorrected: 0.056"
    trend = noise + torch.linspace(-2, 2, 10, dtype=torch.float64).view(10, 1)
    between = torch.linspace(-2, 2, 10).var(correction=0)
    value = float(cross_position_error(DenseCodes(trend, None), mask, positions))
    assert value == pytest.approx(float(between / (1 + between)), rel=0.01)


def test_positions_with_few_tokens_do_not_count() -> None:
    g = torch.Generator().manual_seed(1)
    z = torch.rand(9, 4, 3, generator=g, dtype=torch.float64)
    mask = torch.ones(9, 4, dtype=torch.bool)
    mask[:2, 3] = False  # 7 tokens left at position 3
    positions = torch.arange(4).expand(9, 4)
    wild = z.clone()
    wild[:2, 3] = 99.0  # masked
    wild[2:, 3] = z[2:, 3] * -1  # another mean, the same E[z^2]
    first, second = (cross_position_error(DenseCodes(x, None), mask, positions) for x in (z, wild))
    torch.testing.assert_close(first, second)


def test_with_one_position_or_nothing_active_it_is_zero_and_its_gradient_too() -> None:
    values = torch.ones(9, 1, 3, requires_grad=True)
    mask, positions = torch.ones(9, 1, dtype=torch.bool), torch.zeros(9, 1, dtype=torch.long)
    error = cross_position_error(DenseCodes(values, None), mask, positions)
    error.backward()
    assert error == 0 and values.grad is not None and (values.grad == 0).all()


def test_a_minimum_of_one_token_is_refused() -> None:
    mask, positions = torch.ones(1, 4, dtype=torch.bool), torch.arange(4).view(1, 4)
    with pytest.raises(ValueError, match="min_count is 1; the noise of a position's mean needs at least 2 tokens"):
        cross_position_error(DenseCodes(torch.ones(1, 4, 2), None), mask, positions, min_count=1)
