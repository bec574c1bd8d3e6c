"""Every kernel equals its dense reference, values and gradients."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.kernels import dense_decode, sparse_decode


def case(tokens: int, slots: int, d_sae: int, d_in: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    indices = torch.randint(d_sae, (tokens, slots), generator=g)
    values = torch.randn(tokens, slots, generator=g, dtype=torch.float64)
    return indices, values, torch.randn(d_sae, d_in, generator=g, dtype=torch.float64)


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_sparse_decode_equals_the_dense_product(tokens: int, slots: int, d_sae: int, d_in: int, seed: int) -> None:
    indices, values, W_dec = case(tokens, slots, d_sae, d_in, seed)
    torch.testing.assert_close(
        sparse_decode(indices, values, W_dec), dense_decode(indices, values, W_dec), atol=1e-9, rtol=1e-9
    )


def test_sparse_decode_has_exact_gradients_for_values_and_decoder_even_with_repeated_indices() -> None:
    indices, values, W_dec = case(tokens=3, slots=4, d_sae=3, d_in=2, seed=0)
    assert len(indices.unique()) < indices.numel()
    inputs = (values.requires_grad_(), W_dec.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, w: sparse_decode(indices, v, w), inputs)


def test_sparse_decode_keeps_leading_axes() -> None:
    indices, values, W_dec = case(tokens=6, slots=2, d_sae=5, d_in=3, seed=1)
    flat = sparse_decode(indices, values, W_dec)
    shaped = sparse_decode(indices.view(2, 3, 2), values.view(2, 3, 2), W_dec)
    assert torch.equal(shaped, flat.view(2, 3, 3))
