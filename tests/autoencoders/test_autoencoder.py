"""What always holds for an autoencoder, whatever its preset (DESIGN section 6)."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chronosae
from chronosae.autoencoders import PRESETS, Autoencoder, Normalisation, SparseCodes, build
from chronosae.objectives import reconstruction_error

KINDS = ("none", "dataset", "token")
OPTIONS = {"topk": {"k": 4}, "relu_l1": {}}
each_preset = pytest.mark.parametrize("preset", PRESETS)


def make(preset: str, kind: str = "dataset", dtype: torch.dtype = torch.float64) -> Autoencoder:
    norm = Normalisation(kind=kind, factor=1.7 if kind == "dataset" else 1.0)
    sae = build(preset, d_in=8, d_sae=24, normalisation=norm, seed=3, **OPTIONS[preset])
    with torch.no_grad():
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(4), std=0.1)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(5), std=0.1)
    return sae.to(dtype).eval()


def acts(batch: int, pos: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, pos, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_preset_is_covered_here() -> None:
    assert set(OPTIONS) == set(PRESETS)


@each_preset
@given(
    kind=st.sampled_from(KINDS),
    batch=st.integers(1, 3),
    pos=st.integers(1, 9),
    left=st.integers(0, 3),
    right=st.integers(0, 3),
    seed=st.integers(0, 50),
)
def test_padding_on_either_side_changes_no_code_at_a_real_token(
    preset: str, kind: str, batch: int, pos: int, left: int, right: int, seed: int
) -> None:
    sae, x = make(preset, kind), acts(batch, pos, seed)
    plain = sae.encode(x, torch.ones(batch, pos, dtype=torch.bool)).dense()
    padded = torch.cat([acts(batch, left, 98) * 9, x, acts(batch, right, 99) * 9], dim=1)
    mask = torch.zeros(batch, left + pos + right, dtype=torch.bool)
    mask[:, left : left + pos] = True
    codes = sae.encode(padded, mask).dense()
    torch.testing.assert_close(codes[:, left : left + pos], plain, atol=1e-9, rtol=0)
    assert not codes[~mask].any()


@each_preset
@pytest.mark.parametrize("kind", ["none", "dataset"])
def test_an_overflow_at_a_masked_token_reaches_neither_codes_nor_loss(preset: str, kind: str) -> None:
    sae, x = make(preset, kind), acts(2, 5)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 0] = False
    clean = sae.training_pass(x, mask)
    x[:, 0] = float("inf")
    step = sae.training_pass(x, mask)
    assert torch.equal(step.codes.dense(), clean.codes.dense())
    assert torch.equal(reconstruction_error(step), reconstruction_error(clean))
    reconstruction_error(step).backward()
    assert all(torch.isfinite(p.grad).all() for p in sae.parameters() if p.grad is not None)


@each_preset
@given(batch=st.integers(2, 4), pos=st.integers(1, 9), seed=st.integers(0, 50))
def test_codes_of_a_sequence_do_not_depend_on_its_neighbours_in_the_batch(
    preset: str, batch: int, pos: int, seed: int
) -> None:
    sae, x = make(preset), acts(batch, pos, seed)
    together = sae.encode(x).dense()
    for i in range(batch):
        torch.testing.assert_close(sae.encode(x[i : i + 1]).dense(), together[i : i + 1], atol=1e-9, rtol=0)


@each_preset
@given(pos=st.integers(2, 9), cut=st.integers(1, 8), seed=st.integers(0, 50))
def test_a_later_token_never_changes_an_earlier_code(preset: str, pos: int, cut: int, seed: int) -> None:
    sae, x = make(preset), acts(2, pos, seed)
    assert sae.causal
    cut = min(cut, pos - 1)
    changed = x.clone()
    changed[:, cut:] = acts(2, pos - cut, seed + 1000)
    before, after = sae.encode(x).dense(), sae.encode(changed).dense()
    torch.testing.assert_close(after[:, :cut], before[:, :cut], atol=1e-9, rtol=0)


@each_preset
def test_a_receptive_field_of_one_token_takes_flat_input(preset: str) -> None:
    sae, x = make(preset), acts(2, 5)
    assert sae.receptive_field == 1
    torch.testing.assert_close(sae(x.flatten(0, 1)), sae(x).flatten(0, 1), atol=1e-9, rtol=0)


@each_preset
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_undoes_the_normalisation(preset: str, kind: str) -> None:
    """An input in the span that the dictionary can express comes back at its own scale, however it is scaled."""
    sae, x = make(preset, kind), acts(2, 5)
    target, scale = sae.normalise(x)
    torch.testing.assert_close(sae.denormalise(target, scale), x, atol=1e-9, rtol=0)
    if kind == "token":
        torch.testing.assert_close(target.norm(dim=-1), torch.full((2, 5), 8**0.5, dtype=torch.float64))
        assert torch.isfinite(sae(torch.zeros(1, 2, 8, dtype=torch.float64))).all()


@each_preset
def test_folding_the_factor_changes_the_scale_of_the_codes_and_nothing_else(preset: str) -> None:
    sae, x = make(preset, "dataset"), acts(2, 5)
    plain = sae.folded()
    assert plain.cfg.normalisation.kind == "none"
    torch.testing.assert_close(plain(x), sae(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(plain.encode(x).dense() * 1.7, sae.encode(x).dense(), atol=1e-9, rtol=0)
    torch.testing.assert_close(plain.W_dec, sae.W_dec)
    with pytest.raises(ValueError, match="can't be folded"):
        make(preset, "token").folded()


@each_preset
@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_is_bit_exact(preset: str, kind: str, tmp_path: Path) -> None:
    sae, x = make(preset, kind, torch.float32), acts(2, 5).float()
    sae.save(tmp_path / "sae")
    loaded = chronosae.load(tmp_path / "sae")
    assert loaded.cfg == sae.cfg
    assert torch.equal(loaded(x), sae(x))
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == ["cfg.json", "sae_weights.safetensors"]


@each_preset
def test_fresh_decoder_rows_have_norm_one_and_the_encoder_is_the_transpose(preset: str) -> None:
    sae = build(preset, d_in=8, d_sae=24, **OPTIONS[preset])
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()


def test_presets_of_one_size_and_seed_start_from_the_same_dictionary() -> None:
    first, second = (build(p, d_in=8, d_sae=24, seed=7, **OPTIONS[p]) for p in ("topk", "relu_l1"))
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


@each_preset
def test_nan_weights_show_in_the_codes(preset: str) -> None:
    sae = make(preset)
    with torch.no_grad():
        sae.W_enc[0, 3] = float("nan")
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


@each_preset
def test_projection_leaves_no_gradient_along_the_decoder_rows(preset: str) -> None:
    sae = make(preset)
    sae.constrain_decoder()  # to norm 1 in float64; the initial rows have it in float32
    sae(acts(2, 5)).pow(2).sum().backward()
    sae.project_decoder_gradient()
    assert sae.W_dec.grad is not None
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-9
    with torch.no_grad():
        sae.W_dec.mul_(3)
    sae.constrain_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24, dtype=torch.float64))


@each_preset
def test_an_autoencoder_can_be_made_without_storage(preset: str) -> None:
    with torch.device("meta"):
        sae = Autoencoder(make(preset).cfg)
    assert sae.W_dec.is_meta and sae.W_dec.shape == (24, 8)
