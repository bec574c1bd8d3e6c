"""Temporal crosscoder and stacked autoencoders: what a window reads, writes and is trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chronosae
from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Crosscoder, Draws, Normalisation, SparseCodes
from chronosae.config import TrainingConfig, UserError
from chronosae.objectives import StepContext, reconstruction_error, term_value
from chronosae.objectives.auxk import window_auxk_error, window_error
from chronosae.presets import build
from chronosae.training import Trainee

D, F, T = 8, 24, 3
PRESETS = ("txc", "stacked")
each_preset = pytest.mark.parametrize("preset", PRESETS)


def make(preset: str, kind: str = "dataset", **options: Any) -> Crosscoder:
    norm = Normalisation(kind=kind, factor=1.7 if kind == "dataset" else 1.0)
    options = {**({} if options.get("activation") else {"k": 6}), "window": T} | options
    sae = build(preset, d_in=D, d_sae=F, normalisation=norm, seed=3, **options)
    assert isinstance(sae, Crosscoder)
    with torch.no_grad():
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(4), std=0.1)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(5), std=0.1)
    sae = sae.double()
    sae.constrain_decoder()
    return sae


def acts(batch: int, pos: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, pos, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(batch: int, pos: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations, a mask with holes, and up to three documents a sequence."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, pos, generator=g) < 0.8
    docs = (torch.rand(batch, pos, generator=g) < 0.25).long().cumsum(1)
    return acts(batch, pos, seed), mask, docs


def window_of(sae: Crosscoder, x: torch.Tensor, mask: torch.Tensor, docs: torch.Tensor, b: int, t: int) -> list[Any]:
    """Centred inputs of the window that ends at (b, t), None where there is none: by the book."""
    out: list[Any] = []
    for s in range(T):
        there = t - s >= 0 and bool(mask[b, t - s]) and docs[b, t - s] == docs[b, t]
        out.append(sae.normalise(x[b, t - s])[0] - sae.b_dec if there else None)
    return out


@given(seed=st.integers(0, 60))
def test_a_crosscoder_keeps_the_k_largest_sums_over_its_window(seed: int) -> None:
    sae = make("txc")
    x, mask, docs = case(2, 7, seed)
    codes = sae.encode(x, mask, doc_ids=docs).dense()
    for b in range(2):
        for t in range(7):
            window = window_of(sae, x, mask, docs, b, t)
            pre = sae.b_enc + sum(h @ sae.W_enc_window[s] for s, h in enumerate(window) if h is not None)
            expected = torch.relu(torch.where(pre >= pre.topk(6).values[-1], pre, 0)) * mask[b, t]
            torch.testing.assert_close(codes[b, t], expected, atol=1e-9, rtol=0)


@given(seed=st.integers(0, 60))
def test_stacked_autoencoders_are_topk_autoencoders_one_a_place(seed: int) -> None:
    """Block s at t has the codes that a topk autoencoder of its weights gives x_{t-s}, and none where there is none."""
    sae = make("stacked")
    x, mask, docs = case(2, 7, seed)
    codes = sae.encode(x, mask, doc_ids=docs)
    assert isinstance(codes, SparseCodes)
    assert (codes.indices.diff(dim=-1) >= 0).all() and not codes.indices[codes.values == 0].any()
    dense, n = codes.dense(), F // T
    for b in range(2):
        for t in range(7):
            for s, h in enumerate(window_of(sae, x, mask, docs, b, t)):
                expected = torch.zeros(n, dtype=torch.float64)
                if h is not None and mask[b, t]:
                    pre = h @ sae.W_enc_window[s] + sae.b_enc[s * n : (s + 1) * n]
                    expected = torch.relu(torch.where(pre >= pre.topk(2).values[-1], pre, 0))
                torch.testing.assert_close(dense[b, t, s * n : (s + 1) * n], expected, atol=1e-9, rtol=0)


@each_preset
@pytest.mark.parametrize("kind", ["none", "dataset", "token"])
def test_decoding_a_window_gives_every_slice_in_the_units_of_its_token(preset: str, kind: str) -> None:
    sae, x = make(preset, kind), acts(2, 6)
    codes = sae.encode(x)
    window, dense, n = sae.decode_window(codes), codes.dense(), F // T
    assert window.shape == (2, 6, T, D)
    torch.testing.assert_close(window[:, :, 0], sae.decode(codes), atol=1e-9, rtol=0)
    torch.testing.assert_close(sae.decode(codes), sae.denormalise(dense @ sae.W_dec + sae.b_dec, codes.scale))
    for s in range(1, T):
        part = dense if preset == "txc" else dense[..., s * n : (s + 1) * n]
        normalised = part @ sae.W_dec_window[s] + sae.b_dec
        scale = None if codes.scale is None else codes.scale[:, :-s]
        torch.testing.assert_close(window[:, s:, s], sae.denormalise(normalised[:, s:], scale), atol=1e-9, rtol=0)


@each_preset
@given(seed=st.integers(0, 60), pos=st.integers(1, 8))
def test_the_loss_is_the_mean_over_slices_of_their_errors(preset: str, seed: int, pos: int) -> None:
    sae = make(preset)
    x, mask, docs = case(2, pos, seed)
    step = sae.training_pass(x, mask, doc_ids=docs)
    cfg = sae.cfg
    term = next(term for term in cfg.terms if term.kind == "window")
    loss = cfg.reconstruction_weight * reconstruction_error(step) + term.weight * window_error(sae, step)
    context = StepContext(sae, step, torch.zeros(F, dtype=torch.bool), Draws(0, 0))
    torch.testing.assert_close(term_value(term, context), window_error(sae, step))
    window, target = sae.decode_window(step.codes).detach() * 1.7, sae.normalise(x)[0]
    expected = 0.0
    for s in range(T):
        errors = [
            float((target[b, t - s] - window[b, t, s]).pow(2).sum())
            for b in range(2)
            for t in range(s, pos)
            if mask[b, t] and mask[b, t - s] and docs[b, t] == docs[b, t - s]
        ]
        expected += sum(errors) / max(len(errors), 1) / T
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-9)


@each_preset
def test_dead_features_learn_every_slice_of_their_atoms(preset: str) -> None:
    sae = make(preset)
    x, mask, docs = case(2, 9, 1)
    dead = torch.zeros(F, dtype=torch.bool)
    dead[::2] = True
    step = sae.training_pass(x, mask, doc_ids=docs)
    value = window_auxk_error(sae, step, dead, k_aux=8)
    assert value is not None
    value.backward()
    for weight in (sae.W_dec_window, sae.W_enc_window):
        assert weight.grad is not None and (weight.grad.flatten(1).norm(dim=1) > 0).all()
    grad = sae.W_dec_window.grad
    assert grad is not None
    living = grad[:, ~dead] if preset == "txc" else grad.flatten(0, 1)[~dead]
    assert not living.any()
    assert window_auxk_error(sae, step, torch.zeros_like(dead), k_aux=8) is None


@each_preset
@given(pos=st.integers(1, 8), left=st.integers(0, 4), right=st.integers(0, 3), seed=st.integers(0, 60))
def test_padding_on_either_side_changes_no_code_at_a_real_token(
    preset: str, pos: int, left: int, right: int, seed: int
) -> None:
    sae, x = make(preset), acts(2, pos, seed)
    plain = sae.encode(x).dense()
    padded = torch.cat([acts(2, left, 98) * 9, x, torch.full((2, right, D), torch.inf, dtype=x.dtype)], dim=1)
    mask = torch.zeros(2, left + pos + right, dtype=torch.bool)
    mask[:, left : left + pos] = True
    codes = sae.encode(padded, mask).dense()
    torch.testing.assert_close(codes[:, left : left + pos], plain, atol=1e-9, rtol=0)
    assert not codes[~mask].any()


@each_preset
@given(seed=st.integers(0, 60), cut=st.integers(1, 6))
def test_codes_depend_on_earlier_tokens_of_their_document_and_window_only(preset: str, seed: int, cut: int) -> None:
    sae = make(preset)
    x, mask, docs = case(2, 8, seed)
    whole = sae.encode(x, mask, doc_ids=docs).dense()
    changed = x.clone()
    changed[:, cut:] = acts(2, 8 - cut, seed + 1000)
    after = sae.encode(changed, mask, doc_ids=docs).dense()
    torch.testing.assert_close(after[:, :cut], whole[:, :cut], atol=1e-9, rtol=0)
    changed = x.clone()
    changed[:, :cut] = acts(2, cut, seed + 1000)
    after = sae.encode(changed, mask, doc_ids=docs).dense()
    torch.testing.assert_close(after[:, cut + T - 1 :], whole[:, cut + T - 1 :], atol=1e-9, rtol=0)
    for b in range(2):
        alone = sae.encode(x[b : b + 1], mask[b : b + 1], doc_ids=docs[b : b + 1]).dense()
        torch.testing.assert_close(alone, whole[b : b + 1], atol=1e-9, rtol=0)
        for doc in docs[b].unique():
            at = docs[b] == doc
            alone = sae.encode(x[b : b + 1, at], mask[b : b + 1, at]).dense()
            torch.testing.assert_close(alone[0], whole[b, at], atol=1e-9, rtol=0)


@each_preset
@given(seed=st.integers(0, 60), with_docs=st.booleans(), chunks=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_codes_fed_in_any_chunks_equal_those_of_the_whole(
    preset: str, seed: int, with_docs: bool, chunks: list[int]
) -> None:
    sae, pos = make(preset), sum(chunks)
    x, mask, docs = case(2, pos, seed)
    docs = docs if with_docs else None
    whole = sae.encode(x, mask, doc_ids=docs).dense()
    stream, at, parts = sae.stream(2, rewind=2), 0, []
    for n in chunks:
        now = slice(at, at + n)
        parts.append(stream.step(x[:, now], mask[:, now], doc_ids=None if docs is None else docs[:, now]).dense())
        at += n
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-9, rtol=0)
    if pos > 2:
        stream.crop(pos - 1)
        again = stream.step(x[:, -1:], mask[:, -1:], doc_ids=None if docs is None else docs[:, -1:]).dense()
        torch.testing.assert_close(again, whole[:, -1:], atol=1e-9, rtol=0)
    stream.reset(torch.tensor([1]))
    fresh = stream.step(x[:, :1], mask[:, :1], doc_ids=None if docs is None else docs[:, :1] + 100).dense()
    torch.testing.assert_close(fresh[1], whole[1, :1], atol=1e-9, rtol=0)


@each_preset
@pytest.mark.parametrize("kind", ["batch_topk", "relu"])
def test_other_activation_functions_fill_the_slot(preset: str, kind: str) -> None:
    activation = {"kind": kind} | ({"k": 6} if kind == "batch_topk" else {})
    sae = make(preset, activation=activation)
    sae.training_pass(acts(4, 9), torch.ones(4, 9, dtype=torch.bool))
    codes = sae.encode(acts(2, 6))
    torch.testing.assert_close(sae.decode_window(codes)[:, :, 0], sae(acts(2, 6)))
    if kind == "batch_topk" and preset == "stacked":
        thresholds = [block.threshold for block in sae.activation.blocks]  # type: ignore[attr-defined]
        assert len({float(t) for t in thresholds}) == T, "every block has a threshold of its own"


@each_preset
def test_atoms_keep_norm_one_and_the_gradient_does_not_grow_them(preset: str) -> None:
    sae = make(preset)
    dims = (0, 2) if preset == "txc" else (2,)
    sae.decode_window(sae.encode(acts(2, 5))).pow(2).sum().backward()
    sae.project_decoder_gradient()
    assert sae.W_dec_window.grad is not None
    assert (sae.W_dec_window.grad * sae.W_dec_window).sum(dims).abs().max() < 1e-9
    with torch.no_grad():
        sae.W_dec_window.mul_(3)
    sae.constrain_decoder()
    norms = sae.W_dec_window.pow(2).sum(dims).sqrt()
    torch.testing.assert_close(norms, torch.ones_like(norms))


@each_preset
def test_saving_loading_and_folding_change_no_reconstruction(preset: str, tmp_path: Path) -> None:
    sae, x = make(preset), acts(2, 5)
    sae.save(tmp_path / "sae")
    loaded = chronosae.load(tmp_path / "sae")
    assert loaded.cfg == sae.cfg and torch.equal(loaded(x), sae(x))
    torch.testing.assert_close(sae.folded()(x), sae(x), atol=1e-9, rtol=0)


def test_slice_0_and_stacked_features_start_at_the_dictionary_of_the_other_presets() -> None:
    plain = build("topk", d_in=D, d_sae=F, seed=7, k=4).W_dec
    txc = build("txc", d_in=D, d_sae=F, seed=7, k=4)
    torch.testing.assert_close(torch.nn.functional.normalize(txc.W_dec, dim=1), plain)
    stacked = build("stacked", d_in=D, d_sae=F, seed=7, k=4)
    assert isinstance(stacked, Crosscoder)
    torch.testing.assert_close(stacked.W_dec_window.flatten(0, 1), plain)


@each_preset
def test_flat_input_is_refused_with_the_reason(preset: str) -> None:
    with pytest.raises(ValueError, match="reads 3 tokens at once, so it needs activations"):
        make(preset).encode(acts(2, 5).flatten(0, 1))


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("txc", {"window": 1}, "window"),
        ("stacked", {"window": 5}, r"stacked: window \(5\) must divide d_sae \(24\) and k \(6\)"),
        ("stacked", {"activation": {"kind": "gated"}}, "gate"),
        ("txc", {"extra_terms": [{"kind": "cosine"}]}, "the cosine term reads one decoder vector a feature"),
    ],
)
def test_options_that_can_not_be_are_one_clear_line(preset: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(preset, **options)
    assert "\n" not in str(error.value)


def test_parts_that_do_not_fit_are_named() -> None:
    cfg = make("txc").cfg
    with pytest.raises(ValueError, match="the crosscoder body takes no mixer"):
        type(cfg).model_validate(cfg.model_dump() | {"mixer": {"kind": "conv"}})


@each_preset
def test_training_lowers_the_loss_with_finite_weights(preset: str) -> None:
    sae = build(preset, d_in=D, d_sae=F, k=6, window=T)
    member = Trainee("x", sae, "site", TrainingConfig(dead_after_tokens=200), steps=60, lr=5e-3, seed=0)
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(16, D, generator=g), dim=1)
    losses = []
    for _ in range(60):
        z = (torch.rand(4, 16, 16, generator=g) < 0.1) * torch.rand(4, 16, 16, generator=g)
        zeros = torch.zeros(4, 16, dtype=torch.int64)
        mask = torch.ones(4, 16, dtype=torch.bool)
        member.step(SequenceBatch((z @ directions) * 4, mask, zeros, mask.cumsum(1) - 1, zeros, ("p",) * 4))
        losses.append(member.metrics().loss)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert member.stopped is None
