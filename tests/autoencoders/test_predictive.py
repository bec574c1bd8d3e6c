"""Temporal feature analysis: predicted and novel codes, what they may look at, and that it trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chronosae
from chronosae.activations import SequenceBatch
from chronosae.autoencoders import DenseCodes, Normalisation, PredictiveAutoencoder, PredictiveCodes
from chronosae.autoencoders.predictive import EPS
from chronosae.config import TrainingConfig, UserError
from chronosae.presets import build
from chronosae.training import Trainee

D, F = 8, 32
CHOICES = ({}, {"n_attn_layers": 2, "tied": False, "activation": {"kind": "relu"}})
each_choice = pytest.mark.parametrize("options", CHOICES, ids=["one_layer", "two_layers_untied"])


def make(kind: str = "dataset", **options: Any) -> PredictiveAutoencoder:
    norm = Normalisation(kind=kind, factor=1.7 if kind == "dataset" else 1.0)
    k = {} if options.get("activation") else {"k": 5}
    options = {**k, "n_heads": 2, "bottleneck_factor": 4} | options
    sae = build("tfa", d_in=D, d_sae=F, normalisation=norm, seed=3, **options).double()
    assert isinstance(sae, PredictiveAutoencoder)
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(5), std=0.1)
        for layer in sae.attn_layers:
            # Sharp attention: what may not be seen would show.
            layer.q_target.weight.mul_(30)  # type: ignore[operator, union-attr]
    return sae


def acts(batch: int, pos: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, pos, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(batch: int, pos: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations, a mask with holes, and up to three documents a sequence."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, pos, generator=g) < 0.8
    docs = (torch.rand(batch, pos, generator=g) < 0.25).long().cumsum(1)
    return acts(batch, pos, seed), mask, docs


def encode(sae: PredictiveAutoencoder, x: torch.Tensor, *args: Any, **kwargs: Any) -> PredictiveCodes:
    codes = sae.encode(x, *args, **kwargs)
    assert isinstance(codes, PredictiveCodes)
    return codes


def by_the_book(sae: PredictiveAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and novel codes of one unmasked sequence [pos, d_in], token by token, head by head."""
    r, n, heads = sae.normalise(x)[0] - sae.b_dec, len(x), sae.body.n_heads
    lam, E, predicted = 1 / (4 * D), sae.W_enc, torch.zeros(len(x), F, dtype=x.dtype)
    for layer in sae.attn_layers:
        v = torch.relu(lam * r @ E)
        context = torch.cat([torch.zeros_like(v[:1]), v[:-1]])
        q, k, u = layer.q_target(v), layer.k_ctx(context), layer.v_ctx(context)  # type: ignore[operator]
        said = []
        for t in range(n):
            parts = []
            for qh, kh, uh in zip(q[t].chunk(heads), k.chunk(heads, -1), u.chunk(heads, -1), strict=True):
                weights = torch.softmax(kh[: t + 1] @ qh / len(qh) ** 0.5, 0)
                parts.append(weights @ uh[: t + 1])
            said.append(torch.cat(parts))
        guess = torch.relu(layer.c_proj(torch.stack(said)))  # type: ignore[operator]
        direction = guess @ sae.W_dec
        share = (direction * r).sum(-1, keepdim=True) / (direction.norm(dim=-1, keepdim=True) + EPS) ** 2
        predicted, r = predicted + share * guess, r - share * direction
    novel = torch.relu(lam * r @ E)
    if "k" in sae.cfg.activation.model_dump():
        novel = torch.where(novel >= novel.topk(5, dim=-1).values[:, -1:], novel, 0)
    return predicted, novel


@each_choice
@given(seed=st.integers(0, 60), pos=st.integers(1, 8))
def test_codes_are_those_of_the_published_formulas(options: dict[str, Any], seed: int, pos: int) -> None:
    sae, x = make(**options), acts(2, pos, seed)
    codes = encode(sae, x)
    for b in range(2):
        predicted, novel = by_the_book(sae, x[b])
        torch.testing.assert_close(codes.predicted()[b], predicted, atol=1e-9, rtol=0)
        torch.testing.assert_close(codes.novel.dense()[b], novel, atol=1e-9, rtol=0)


def test_codes_answer_for_both_parts_and_for_the_novel_one() -> None:
    sae, x = make("token"), acts(2, 6)
    codes = encode(sae, x)
    dense = codes.dense()
    torch.testing.assert_close(dense, codes.predicted() + codes.novel.dense())
    assert torch.equal(codes.l0(), (dense != 0).sum(-1))
    assert torch.equal(codes.novel_l0(), (codes.novel.dense() != 0).sum(-1)) and (codes.novel_l0() <= 5).all()
    assert codes.l0().double().mean() > codes.novel_l0().double().mean()
    assert torch.equal(codes.fired(), (dense != 0).flatten(0, 1).sum(0))
    assert torch.equal(codes.at(3), dense[..., 3])
    torch.testing.assert_close(codes.combine(sae.W_dec), dense @ sae.W_dec)
    torch.testing.assert_close(sae.decode(codes), sae(x))
    torch.testing.assert_close(sae.decode(DenseCodes(dense, codes.scale)), sae(x))
    cut = codes.detach()
    assert not cut.values.requires_grad and not cut.novel.values.requires_grad


@each_choice
@given(pos=st.integers(1, 8), left=st.integers(0, 4), right=st.integers(0, 3), seed=st.integers(0, 60))
def test_padding_on_either_side_changes_no_code_at_a_real_token(
    options: dict[str, Any], pos: int, left: int, right: int, seed: int
) -> None:
    sae, x = make(**options), acts(2, pos, seed)
    plain = encode(sae, x)
    padded = torch.cat([acts(2, left, 98) * 9, x, torch.full((2, right, D), torch.inf, dtype=x.dtype)], dim=1)
    mask = torch.zeros(2, left + pos + right, dtype=torch.bool)
    mask[:, left : left + pos] = True
    codes = encode(sae, padded, mask)
    torch.testing.assert_close(codes.dense()[:, left : left + pos], plain.dense(), atol=1e-9, rtol=0)
    torch.testing.assert_close(codes.novel.dense()[:, left : left + pos], plain.novel.dense(), atol=1e-9, rtol=0)
    assert not codes.dense()[~mask].any()


@each_choice
@given(seed=st.integers(0, 60), cut=st.integers(1, 6))
def test_codes_depend_on_earlier_real_tokens_of_their_document_only(
    options: dict[str, Any], seed: int, cut: int
) -> None:
    sae = make(**options)
    x, mask, docs = case(2, 8, seed)
    whole = sae.encode(x, mask, doc_ids=docs).dense()
    changed = x.clone()
    changed[:, cut:] = acts(2, 8 - cut, seed + 1000)
    after = sae.encode(changed, mask, doc_ids=docs).dense()
    torch.testing.assert_close(after[:, :cut], whole[:, :cut], atol=1e-9, rtol=0)
    for b in range(2):
        for doc in docs[b].unique():
            real = (docs[b] == doc) & mask[b]
            alone = sae.encode(x[b : b + 1, real]).dense()
            torch.testing.assert_close(alone[0], whole[b, real], atol=1e-9, rtol=0)


def test_the_context_matters_at_all() -> None:
    sae, x = make(), acts(1, 8)
    changed = x.clone()
    changed[:, 0] += 3
    assert (encode(sae, changed).dense()[:, -1] - encode(sae, x).dense()[:, -1]).abs().max() > 1e-4


@each_choice
@given(
    seed=st.integers(0, 60),
    with_docs=st.booleans(),
    chunks=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    back=st.integers(0, 2),
)
def test_codes_fed_in_any_chunks_equal_those_of_the_whole(
    options: dict[str, Any], seed: int, with_docs: bool, chunks: list[int], back: int
) -> None:
    sae, pos = make(**options), sum(chunks)
    x, mask, docs = case(2, pos, seed)
    whole = sae.encode(x, mask, doc_ids=docs if with_docs else None).dense()

    def documents(now: slice, offset: int = 0) -> torch.Tensor | None:
        return docs[:, now] + offset if with_docs else None

    stream, at, parts = sae.stream(2, rewind=2), 0, []
    for n in chunks:
        now = slice(at, at + n)
        parts.append(stream.step(x[:, now], mask[:, now], doc_ids=documents(now)).dense())
        at += n
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-9, rtol=0)
    end = slice(pos - back, pos)
    stream.crop(pos - back)
    if back:
        again = stream.step(x[:, end], mask[:, end], doc_ids=documents(end)).dense()
        torch.testing.assert_close(again, whole[:, end], atol=1e-9, rtol=0)
    # Beams: both rows go on as row 0; then row 1 starts anew and sees nothing of what it was.
    stream.reorder(torch.tensor([0, 0]))
    more, real = acts(1, 2, seed + 7).repeat(2, 1, 1), torch.ones(2, 2, dtype=torch.bool)
    last = None if not with_docs else docs[:1, -1:].repeat(2, 2)
    longer = sae.encode(
        torch.cat([x[:1], more[:1]], 1),
        torch.cat([mask[:1], real[:1]], 1),
        doc_ids=None if last is None else torch.cat([docs[:1], last[:1]], 1),
    ).dense()[:, -2:]
    stream.reset(torch.tensor([1]))
    codes = stream.step(more, real, doc_ids=last).dense()
    torch.testing.assert_close(codes[:1], longer, atol=1e-9, rtol=0)
    torch.testing.assert_close(codes[1:], sae.encode(more[:1]).dense(), atol=1e-9, rtol=0)


@each_choice
def test_saving_and_loading_is_bit_exact(options: dict[str, Any], tmp_path: Path) -> None:
    sae, x = make(**options), acts(2, 5)
    sae.save(tmp_path / "sae")
    loaded = chronosae.load(tmp_path / "sae")
    assert loaded.cfg == sae.cfg and torch.equal(loaded(x), sae(x))
    assert torch.equal(make("none", **options).folded()(x), make("none", **options)(x))
    with pytest.raises(ValueError, match="can't be folded"):
        sae.folded()


@each_choice
def test_weights_can_be_made_without_storage_and_from_a_seed_alone(options: dict[str, Any]) -> None:
    sae = make(**options)
    with torch.device("meta"):
        assert PredictiveAutoencoder(sae.cfg).W_dec.is_meta
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = (build("tfa", d_in=D, d_sae=256, seed=1, k=5) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_flat_input_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="reads all earlier tokens at once, so it needs activations"):
        make().encode(acts(2, 5).flatten(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 3}, r"d_sae \(32\) must be a multiple of n_heads x bottleneck_factor \(3 x 4\)"),
        ({"activation": {"kind": "gated"}}, "gate"),
        ({"k": 33}, r"k \(33\) must be at most d_sae \(32\)"),
    ],
)
def test_options_that_can_not_be_are_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


@each_choice
def test_every_weight_learns_at_one_rate_the_dictionary_at_its_own(options: dict[str, Any]) -> None:
    sae = make(**options)
    groups = list(sae.parameter_groups())
    names = {p: name for name, p in sae.named_parameters()}
    assert sorted(names[p] for group in groups for p in group.parameters) == sorted(names.values())
    dictionary = {names[p] for group in groups if group.lr_multiplier == D**0.5 for p in group.parameters}
    assert dictionary == ({"W_dec"} if sae.body.tied else {"W_dec", "W_enc_untied"})
    plain = make(lr_multiplier=1.0, **options)
    assert {group.lr_multiplier for group in plain.parameter_groups()} == {1.0}


def persistent(g: torch.Generator, directions: torch.Tensor) -> SequenceBatch:
    """Features that stay on for some ten tokens, and some that come and go."""
    n = len(directions)
    starts = torch.rand(8, 24, n, generator=g) < 0.02
    on = torch.nn.functional.max_pool1d(
        torch.nn.functional.pad(starts.float().transpose(1, 2), (9, 0)), 10, stride=1
    ).transpose(1, 2)
    brief = (torch.rand(8, 24, n, generator=g) < 0.03).float()
    z = torch.cat([on[..., : n // 2], brief[..., n // 2 :]], -1) * (0.5 + torch.rand(8, 24, n, generator=g))
    zeros, mask = torch.zeros(8, 24, dtype=torch.int64), torch.ones(8, 24, dtype=torch.bool)
    return SequenceBatch(z @ directions * 3, mask, zeros, mask.cumsum(1) - 1, zeros, ("p",) * 8)


@pytest.mark.parametrize(
    "options", [{}, {"activation": {"kind": "batch_topk", "k": 5}}, {"activation": {"kind": "relu"}, "l1_weight": 0.1}]
)
def test_training_lowers_the_loss_with_finite_weights(options: dict[str, Any]) -> None:
    sae = build("tfa", d_in=D, d_sae=F, n_heads=2, bottleneck_factor=4, **(options or {"k": 5}))
    member = Trainee("x", sae, "site", TrainingConfig(), steps=80, lr=5e-3, seed=0)
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(16, D, generator=g), dim=1)
    losses = []
    for _ in range(80):
        member.step(persistent(g, directions))
        losses.append(member.metrics().loss)
    assert member.stopped is None
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
