"""On a GPU too, features that look back or are weighed by their place equal dense arithmetic."""

import os
from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronosae.kernels import (
    Lookback,
    PositionWeights,
    dense_only,
    encode_topk_in_context,
    encode_topk_in_context_dense,
    triton_kernels,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
os.environ.setdefault("CHRONOSAE_KERNELS", "triton")  # on a GPU they are to be asked for
GPU = triton_kernels(torch.empty(0, device=DEVICE))
pytestmark = pytest.mark.skipif(not GPU, reason="needs Triton, and a GPU or TRITON_INTERPRET=1")


def case(lags: tuple[int, ...], weighed: bool, dtype: torch.dtype, seed: int, d_sae: int = 23) -> tuple:
    """Ten tokens, one of them not active."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).to(DEVICE)

    # The place of each token in its document, of which there are three.
    place, token = torch.tensor([0, 1, 2, 0, 1, 0, 1, 2, 3, 4]), torch.arange(10)
    sources = [torch.where(place >= lag, token - lag, -1) for lag in lags]
    taps = random(len(lags), d_sae).requires_grad_()
    back = Lookback(taps, lags, torch.stack(sources).to(DEVICE) if lags else token.new_zeros(0, 10).to(DEVICE))
    weigh = PositionWeights(random(3, d_sae).relu(), torch.arange(10, device=DEVICE) % 3) if weighed else None
    active = torch.arange(10, device=DEVICE) != 1
    return (
        random(10, 6).requires_grad_(),
        random(d_sae, 6).requires_grad_(),
        random(d_sae).requires_grad_(),
        back,
        weigh,
        active,
    )


def gradients(encode: Callable[..., tuple], given: tuple, k: int, centred: bool) -> tuple:
    x, W, b, back, weigh, active = given
    centre = torch.ones(6, dtype=x.dtype, device=DEVICE).requires_grad_() if centred else None
    wanted = torch.tensor([2, 5], device=DEVICE)
    with torch.autocast(DEVICE, enabled=False):
        zeroed = torch.where(active.unsqueeze(1), x, 0)
        values, indices, known = encode(zeroed, W, b, k, back, weigh, active, centre, wanted)
        loss = (values * torch.arange(1.0, k + 1, device=DEVICE)).sum() + known.square().sum() + 0 * back.taps.sum()
        return values, indices, known, *torch.autograd.grad(loss, [W, b, back.taps, centre if centred else x])


@settings(max_examples=15, phases=[Phase.generate])
@given(st.sampled_from([(), (1,), (1, 3)]), st.booleans(), st.booleans(), st.integers(1, 6), st.integers(0, 99))
def test_codes_and_gradients_equal_those_of_a_dense_encoder(
    lags: tuple[int, ...], weighed: bool, centred: bool, k: int, seed: int
) -> None:
    given = case(lags, weighed, torch.float64, seed)
    with dense_only():
        slow = gradients(encode_topk_in_context_dense, given, k, centred)
    fast = gradients(encode_topk_in_context, given, k, centred)
    for a, e in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(("lags", "d_sae"), [((), 23), ((1, 2, 4), 1300)])
def test_the_choice_is_made_among_sums_over_lags(lags: tuple[int, ...], d_sae: int, weighed: bool) -> None:
    given = case(lags, weighed, torch.float32, 4, d_sae)
    fast, slow = (gradients(f, given, 5, True) for f in (encode_topk_in_context, encode_topk_in_context_dense))
    assert torch.equal(fast[1], slow[1])
    for a, e in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_under_autocast_codes_and_gradients_are_close_to_a_dense_encoders() -> None:
    x, W, b, back, weigh, active = case((1, 2), True, torch.float32, 9)
    results = []
    for encode in (encode_topk_in_context, encode_topk_in_context_dense):
        with torch.autocast(DEVICE, torch.bfloat16):
            values, indices, _ = encode(torch.where(active.unsqueeze(1), x, 0), W, b, 4, back, weigh, active)
        results.append((values, *torch.autograd.grad(values.float().square().sum(), [x, W, b, back.taps]), indices))
    fast, slow = results
    assert torch.equal(fast[-1], slow[-1])
    assert all((a - e).norm() <= 2**-6 * e.norm() for a, e in zip(fast[:-1], slow[:-1], strict=True))
