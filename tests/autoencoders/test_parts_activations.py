"""Activation functions against their definitions, written out densely."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import Activation, JumpReLUActivation
from chronosae.autoencoders.codes import compact, smallest_of_largest
from chronosae.autoencoders.parts.activations import BatchTopK, Gated, JumpReLU, WinnerTakeAll

seeds = st.integers(0, 10_000)


def pre_activations(n: int, d_sae: int, seed: int, shift: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    # Tokens of very different size: a batch is chosen from unevenly.
    size = torch.rand(n, 1, generator=g, dtype=torch.float64).pow(4) * 5
    return torch.randn(n, d_sae, generator=g, dtype=torch.float64) * size + shift


def train(part: Activation, pre: Tensor, mask: Tensor | None = None) -> Tensor:
    return part(pre, mask, None, True).dense()


def test_the_threshold_is_right_when_one_token_has_nearly_all_positive_entries() -> None:
    rows = torch.full((100, 1000), -1.0)
    rows[7] = torch.arange(1, 1001)
    assert smallest_of_largest(rows, 3200) == 1, "fewer positive ones than asked for: the smallest of them"
    assert smallest_of_largest(rows, 900) == 101
    assert smallest_of_largest(rows[:5], 10) == torch.inf
    assert smallest_of_largest(rows[:0], 0) == torch.inf


@given(n=st.integers(1, 9), d_sae=st.integers(1, 200), k=st.integers(1, 40), shift=st.floats(-4, 4), seed=seeds)
def test_batch_topk_chooses_exactly_the_k_n_largest_positive_entries(
    n: int, d_sae: int, k: int, shift: float, seed: int
) -> None:
    k = min(k, d_sae)
    pre = pre_activations(n, d_sae, seed, shift)
    found = train(BatchTopK(k=k).make(1, d_sae), pre)
    largest = pre.flatten().topk(k * n)
    expected = torch.zeros(n * d_sae, dtype=torch.float64).scatter(0, largest.indices, largest.values.relu())
    assert torch.equal(found, expected.view_as(found))
    assert int((found != 0).sum()) == min(k * n, int((pre > 0).sum()))


@given(seed=seeds)
def test_batch_topk_counts_unmasked_tokens_only(seed: int) -> None:
    pre, mask = pre_activations(12, 30, seed).view(3, 4, 30), torch.rand(3, 4) < 0.6
    found = train(BatchTopK(k=3).make(1, 30), pre, mask)
    alone = train(BatchTopK(k=3).make(1, 30), pre[mask].unsqueeze(0)).squeeze(0)
    assert torch.equal(found[mask], alone) and not found[~mask].any()


def test_the_threshold_of_batch_topk_is_defined_from_the_first_batch_and_then_a_running_mean() -> None:
    part = BatchTopK(k=2, momentum=0.25).make(1, 20)
    first, second = (pre_activations(10, 20, seed) for seed in (0, 1))
    smallest = [float(pre.flatten().topk(20).values[-1]) for pre in (first, second)]
    train(part, first)
    assert float(part.threshold) == pytest.approx(smallest[0])  # type: ignore[arg-type]
    codes = part(first, None, None, False).dense()
    assert torch.equal(codes, torch.where(first >= part.threshold, first, 0).relu())
    train(part, second)
    assert float(part.threshold) == pytest.approx(0.75 * smallest[0] + 0.25 * smallest[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [BatchTopK(k=2), WinnerTakeAll(rate=0.2)])
def test_a_batch_without_an_unmasked_token_teaches_no_threshold(kind: BatchTopK | WinnerTakeAll) -> None:
    part = kind.make(1, 20)
    before = {name: buffer.clone() for name, buffer in part.named_buffers()}
    codes = train(part, pre_activations(6, 20, 0).view(2, 3, 20), torch.zeros(2, 3, dtype=torch.bool))
    assert not codes.any()
    assert all(torch.equal(buffer, before[name]) for name, buffer in part.named_buffers())


@given(rate=st.floats(0.01, 1), n=st.integers(1, 40), seed=seeds)
def test_each_feature_of_winner_take_all_wins_its_share_of_tokens(rate: float, n: int, seed: int) -> None:
    pre = pre_activations(n, 15, seed)
    found = train(WinnerTakeAll(rate=rate).make(1, 15), pre)
    share = max(1, round(rate * n))
    smallest = pre.topk(share, dim=0).values[-1]
    assert torch.equal(found, torch.where(pre >= smallest, pre, 0).relu())
    assert ((found != 0).sum(0) <= share).all()
    assert ((found != 0).sum(0) == (pre > 0).sum(0).clamp(max=share)).all()


def test_jump_relu_follows_the_straight_through_formula() -> None:
    part = JumpReLU(threshold=0.5, bandwidth=0.4).make(1, 50).double()
    assert isinstance(part, JumpReLUActivation)
    pre = pre_activations(30, 50, 0, 0.5).requires_grad_()
    direction = torch.randn(30, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theta = part.threshold.detach()
    near = ((pre - theta).abs() < 0.2).double().detach()
    assert near.sum() > 20

    (train(part, pre) * direction).sum().backward()
    fires = (pre > theta).double().detach()
    assert torch.equal(pre.grad, direction * fires)
    # d/d log theta = theta d/d theta; d/d theta = -(theta / bandwidth) 1[near]
    expected = (-direction * theta / 0.4 * near).sum(0) * theta
    torch.testing.assert_close(part.log_threshold.grad, expected, atol=1e-12, rtol=1e-12)

    pre.grad = part.log_threshold.grad = None
    (part.steps(pre) * direction).sum().backward()
    assert pre.grad is None or not pre.grad.any()
    torch.testing.assert_close(part.log_threshold.grad, (-direction / 0.4 * near).sum(0) * theta)


def test_the_gate_decides_whether_and_the_magnitude_how_much() -> None:
    part = Gated().make(1, 8).double()
    with torch.no_grad():
        part.log_gain.normal_()  # type: ignore[operator]
        part.b_mag.normal_()  # type: ignore[operator]
    pre = pre_activations(20, 8, 0).requires_grad_()
    magnitude = (pre * part.log_gain.exp() + part.b_mag).relu()  # type: ignore[operator]
    codes = train(part, pre)
    assert torch.equal(codes, magnitude * (pre > 0))
    codes.sum().backward()
    assert not pre.grad[pre <= 0].any(), "the gate itself gets no gradient from the codes"


@given(n=st.integers(1, 6), d_sae=st.integers(1, 60), rate=st.floats(0, 1), seed=seeds)
def test_kept_entries_are_the_same_in_slots_and_dense(n: int, d_sae: int, rate: float, seed: int) -> None:
    pre = pre_activations(n, d_sae, seed)
    keep = torch.rand(n, d_sae, generator=torch.Generator().manual_seed(seed)) < rate
    codes = compact(pre, keep, None)
    assert torch.equal(codes.dense(), torch.where(keep, pre, 0))
    indices = getattr(codes, "indices", torch.zeros(n, 1, dtype=torch.long))
    assert (indices.diff(dim=-1) >= 0).all(), "indices ascend"
