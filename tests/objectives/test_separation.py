"""Separation terms against their formulas written out over all pairs of features."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import DenseCodes, SparseCodes
from chronosae.objectives import separation
from chronosae.objectives.separation import code_separation, cosine_separation, orthogonality, welch_floor


def decoder(d_sae: int, d_in: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(d_sae, d_in, generator=g, dtype=torch.float64) * 3).requires_grad_()


def dense_cosine_separation(W_dec: Tensor) -> Tensor:
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    return (unit @ unit.T)[~torch.eye(len(W_dec), dtype=torch.bool)].square().mean()


def dense_orthogonality(W_dec: Tensor) -> Tensor:
    return (W_dec @ W_dec.T - torch.eye(len(W_dec), dtype=W_dec.dtype)).square().sum()


@given(d_sae=st.integers(2, 40), d_in=st.integers(1, 20), rows=st.sampled_from([3, 8192]), seed=st.integers(0, 99))
def test_decoder_terms_equal_the_dense_formulas_in_value_and_gradient(
    d_sae: int, d_in: int, rows: int, seed: int
) -> None:
    W_dec = decoder(d_sae, d_in, seed)
    pairs = ((cosine_separation, dense_cosine_separation), (orthogonality, dense_orthogonality))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separation, "_ROWS", rows)
        for fast, dense in pairs:
            torch.testing.assert_close(fast(W_dec), dense(W_dec), rtol=1e-10, atol=1e-10)
            fast_grad, dense_grad = (torch.autograd.grad(f(W_dec), W_dec)[0] for f in (fast, dense))
            torch.testing.assert_close(fast_grad, dense_grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("term", [cosine_separation, orthogonality])
def test_gradcheck(term: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(term, decoder(7, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_its_type_and_stays_close(dtype: torch.dtype) -> None:
    W_dec = decoder(200, 16).detach().to(dtype)
    value = cosine_separation(W_dec.requires_grad_())
    assert value.dtype == dtype
    exact = float(dense_cosine_separation(W_dec.detach().double()))
    assert float(value.detach()) == pytest.approx(exact, rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_autocast_changes_nothing() -> None:
    W_dec = decoder(64, 48).detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = cosine_separation(W_dec), orthogonality(W_dec)
    assert inside == (cosine_separation(W_dec), orthogonality(W_dec))


def test_a_row_of_zeros_gets_no_gradient_and_no_nan() -> None:
    W_dec = decoder(5, 3).detach()
    W_dec[2] = 0
    W_dec.requires_grad_()
    (grad,) = torch.autograd.grad(cosine_separation(W_dec), W_dec)
    assert grad.isfinite().all() and (grad[2] == 0).all()


def test_no_decoder_is_below_the_welch_floor_and_a_tight_frame_is_on_it() -> None:
    angles = torch.arange(7, dtype=torch.float64) * torch.pi / 7
    frame = torch.stack([angles.cos(), angles.sin()], 1)
    assert float(cosine_separation(frame)) == pytest.approx(welch_floor(7, 2), abs=1e-12)
    assert float(cosine_separation(decoder(50, 8).detach())) > welch_floor(50, 8)
    assert welch_floor(4, 4) == welch_floor(1, 4) == 0
    assert float(cosine_separation(torch.eye(4))) == float(orthogonality(torch.eye(4))) == 0


def test_one_feature_has_nothing_to_be_separated_from() -> None:
    with pytest.raises(ValueError, match="cosine separation compares features; the decoder has 1"):
        cosine_separation(decoder(1, 4))


MEASURE = """
import resource, torch
from chronosae.objectives.separation import cosine_separation, orthogonality
torch.set_num_threads(1)
torch.autograd.grad(orthogonality(W := torch.ones(4, 4, requires_grad=True)), W)  # what starting costs
W_dec = torch.randn(65536, 256).requires_grad_()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(cosine_separation(W_dec) + orthogonality(W_dec)).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_at_65536_features_both_terms_and_their_gradients_take_less_than_a_gibibyte() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    extra = int(ran.stdout) * 1024
    assert extra < 2**30, "features x features would be 16 GiB"
    assert extra < 5 * 65536 * 256 * 4, "a few times the decoder: gradients and chunks"


def codes_and_mask(seed: int, d_sae: int = 12, slots: int = 4) -> tuple[SparseCodes, Tensor]:
    g = torch.Generator().manual_seed(seed)
    indices = torch.rand(2, 15, d_sae, generator=g).topk(slots, -1).indices.sort(-1).values
    values = torch.randn(2, 15, slots, generator=g, dtype=torch.float64) + 0.5
    unused = torch.rand(2, 15, slots, generator=g) < 0.3
    values = values.masked_fill(unused, 0).requires_grad_()
    return SparseCodes(values, None, indices.masked_fill(unused, 0), d_sae), torch.rand(2, 15, generator=g) > 0.2


def dense_code_separation(z: Tensor, mask: Tensor) -> Tensor:
    z = z[mask]
    fired = (z != 0).double()
    together = (fired.T @ fired > 0).triu(1)
    squares = z.square().sum(0)
    cosines = (z.T @ z).square() / (squares.unsqueeze(1) * squares).clamp_min(1e-30)
    return cosines[together].mean()


@given(seed=st.integers(0, 1000))
def test_code_separation_equals_the_mean_over_pairs_that_fired_together_and_so_does_its_gradient(seed: int) -> None:
    codes, mask = codes_and_mask(seed)
    fast, dense = code_separation(codes, mask), dense_code_separation(codes.dense(), mask)
    torch.testing.assert_close(fast, dense, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(code_separation(DenseCodes(codes.dense(), None), mask), fast, rtol=1e-10, atol=1e-12)
    used = codes.values != 0
    fast_grad, dense_grad = (torch.autograd.grad(x, codes.values)[0] * used for x in (fast, dense))
    torch.testing.assert_close(fast_grad, dense_grad, rtol=1e-9, atol=1e-10)


def test_sampled_code_separation_is_deterministic_and_right_on_average() -> None:
    codes, mask = codes_and_mask(seed=3, d_sae=20, slots=6)
    whole = float(code_separation(codes, mask).detach())
    g = torch.Generator().manual_seed(0)
    draws = torch.stack([code_separation(codes, mask, max_pairs=120, generator=g).detach() for _ in range(400)])
    again = code_separation(codes, mask, max_pairs=120, generator=torch.Generator().manual_seed(0))
    assert draws[0] == again and draws.std() > 0
    assert abs(float(draws.mean()) - whole) < 4 * float(draws.std()) / 20


def test_sampling_bounds_the_pairs_in_expectation() -> None:
    codes, mask = codes_and_mask(seed=4, d_sae=40, slots=10)
    active = separation.active_codes(codes, mask)
    g = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(100):
        kept = separation._subset(active, 40, mask.numel(), 60, g)
        assert kept is not None
        sizes.append(len(separation._pairs_at_tokens(torch.bincount(active.tokens[kept]))[0]))
    assert 20 < sum(sizes) / 100 <= 66


def test_without_features_that_fire_together_code_separation_is_zero_and_its_gradient_too() -> None:
    values = torch.eye(4).view(1, 4, 4).clone().requires_grad_()
    error = code_separation(DenseCodes(values, None), torch.ones(1, 4, dtype=torch.bool))
    error.backward()
    assert error == 0 and values.grad is not None and (values.grad == 0).all()
