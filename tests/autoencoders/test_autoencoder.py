"""Scale, dictionary and codes of an autoencoder, whatever its parts; what holds over time is in test_invariants."""

import pytest
import torch
from autoencoder_cases import CASES, D_IN, D_SAE, each_case, make
from hypothesis import given
from hypothesis import strategies as st

from chronosae.autoencoders import SparseCodes
from chronosae.presets import build

KINDS = ("none", "dataset", "token")
# Other bodies have dictionaries of another shape, with tests of their own.
LINEAR = [name for name in CASES if make(name).cfg.body.kind == "linear"]
each_linear = pytest.mark.parametrize("name", LINEAR)


def acts(batch: int, pos: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, pos, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_case
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_undoes_the_normalisation(name: str, kind: str) -> None:
    """An input in the span that the dictionary can express comes back at its own scale, however it is scaled."""
    sae, x = make(name, kind), acts(2, 5)
    target, scale = sae.normalise(x)
    torch.testing.assert_close(sae.denormalise(target, scale), x, atol=1e-9, rtol=0)
    if kind == "token":
        torch.testing.assert_close(target.norm(dim=-1), torch.full((2, 5), 8**0.5, dtype=torch.float64))
        assert torch.isfinite(sae(torch.zeros(1, 2, 8, dtype=torch.float64))).all()


@each_case
def test_folding_the_factor_changes_the_scale_of_the_codes_and_nothing_else(name: str) -> None:
    sae, x = make(name, "dataset"), acts(2, 5)
    if sae.norm is not None or sae.cfg.body.kind == "predictive":
        with pytest.raises(ValueError, match="can't be folded"):
            sae.folded()
        return
    plain = sae.folded()
    assert plain.cfg.normalisation.kind == "none"
    torch.testing.assert_close(plain(x), sae(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(plain.encode(x).dense() * 1.7, sae.encode(x).dense(), atol=1e-9, rtol=0)
    torch.testing.assert_close(plain.W_dec, sae.W_dec)
    with pytest.raises(ValueError, match="can't be folded"):
        make(name, "token").folded()


@each_linear
def test_fresh_decoder_rows_have_norm_one_and_the_encoder_is_the_transpose(name: str) -> None:
    preset, options = CASES[name]
    sae = build(preset, d_in=D_IN, d_sae=D_SAE, **options)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()


def test_presets_of_one_size_and_seed_start_from_the_same_dictionary() -> None:
    first, second = (build(p, d_in=8, d_sae=24, seed=7, **CASES[p][1]) for p in ("topk", "relu_l1"))
    assert torch.equal(first.W_dec, second.W_dec)
    assert not torch.equal(first.W_dec, build("topk", d_in=8, d_sae=24, seed=8, k=4).W_dec)


@given(k=st.integers(1, 24), seed=st.integers(0, 50), shift=st.floats(-3, 3))
def test_topk_keeps_the_k_largest_positive_pre_activations(k: int, seed: int, shift: float) -> None:
    sae, x = build("topk", d_in=8, d_sae=24, k=k).double(), acts(2, 5, seed)
    with torch.no_grad():
        sae.b_enc.add_(shift)
    codes = sae.encode(x)
    assert isinstance(codes, SparseCodes)
    pre = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    threshold = pre.topk(k, dim=-1).values[..., -1:]
    expected = torch.where(pre >= threshold, pre, 0)
    torch.testing.assert_close(codes.dense(), expected, atol=1e-9, rtol=0)
    assert (codes.l0() == (expected > 0).sum(-1)).all()
    assert (codes.indices.diff(dim=-1) >= 0).all(), "indices ascend"
    assert not codes.indices[codes.values == 0].any(), "unused slots name feature 0"


@each_case
def test_nan_weights_show_in_the_codes(name: str) -> None:
    sae = make(name)
    encoder = {"crosscoder": "W_enc_window", "predictive": "W_dec"}.get(sae.cfg.body.kind, "W_enc")
    with torch.no_grad():
        sae.get_parameter(encoder)[..., 0, 3] = float("nan")
    assert sae(acts(1, 2)).isnan().any()


@given(seed=st.integers(0, 50))
def test_sparse_codes_answer_as_dense_ones_do(seed: int) -> None:
    codes = make("topk").encode(acts(2, 5, seed))
    dense = codes.dense()
    for feature in range(24):
        assert torch.equal(codes.at(feature), dense[..., feature])
    assert torch.equal(codes.fired(), (dense != 0).flatten(0, 1).sum(0))


def test_dense_codes_beyond_the_limit_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chronosae.autoencoders.codes.DENSE_LIMIT_BYTES", 100)
    with pytest.raises(MemoryError, match=r"\.at\(feature\)"):
        make("topk").encode(acts(2, 5)).dense()


def test_a_wrong_width_says_both_widths() -> None:
    with pytest.raises(ValueError, match="width 9, this autoencoder takes d_in = 8"):
        make("topk").encode(torch.zeros(1, 2, 9))


@each_linear
def test_projection_leaves_no_gradient_along_the_decoder_rows(name: str) -> None:
    sae = make(name)
    sae.constrain_decoder()  # to norm 1 in float64; the initial rows have it in float32
    sae(acts(2, 5)).pow(2).sum().backward()
    sae.project_decoder_gradient()
    assert sae.W_dec.grad is not None
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-9
    with torch.no_grad():
        sae.W_dec.mul_(3)
    sae.constrain_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24, dtype=torch.float64))
