"""What every evaluation stands on: token rows, activations computed once, codes from whole contexts, pooling."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.autoencoders import DenseCodes
from chronosae.config import SubjectConfig, UserError
from chronosae.evals.probes import RAW, last_only, pool_codes, pool_dense, pooled
from chronosae.evals.workbench import PASS_TOKENS, ActivationCache, Workbench, encode
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder

TEXTS = ["Quilla paid Vance.", "A letter with a green seal lay on the table. It was quiet.", "Why?", "", "Vance " * 40]
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Workbench:
    return Workbench(subject, SITE)


def test_rows_know_where_each_token_stands(bench: Workbench) -> None:
    rows = bench.read(TEXTS, 16)
    assert rows.tokens.shape[1] <= 16
    assert rows.truncated.tolist() == [False, False, False, False, True]
    assert not rows.mask[:, 0].any() and not rows.mask[~rows.real].any()
    positions = rows.span(0, 7, 11)
    covered = "".join(TEXTS[0][slice(*rows.offsets[0, p].tolist())] for p in positions)
    assert "paid" in covered and "Vance" not in covered
    assert rows.span(4, 200, 210) == []


def test_text_cannot_forge_special_tokens(bench: Workbench) -> None:
    special = bench.subject.tokenizer.all_special_tokens[0]
    rows = bench.read([f"a {special} b"], 32)
    assert not (rows.tokens[0, 1:] == bench.subject.tokenizer.convert_tokens_to_ids(special)).any()


def test_batches_give_each_row_once_with_the_activations_it_has_alone(bench: Workbench) -> None:
    rows = bench.read(TEXTS, 32)
    seen = []
    for part in bench.batches(rows, "test"):
        for i, row in enumerate(part.index.tolist()):
            seen.append(row)
            length = int(rows.lengths[row])
            alone = bench.subject.activations(rows.tokens[row : row + 1, :length], [SITE])[SITE][0]
            torch.testing.assert_close(part.batch.acts[i, :length], alone, rtol=1e-4, atol=1e-4)
    assert sorted(seen) == list(range(len(TEXTS)))


def test_cached_activations_are_bit_equal_and_the_subject_is_not_asked_again(
    subject: Subject, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(subject, SITE, cache=ActivationCache(tmp_path))
    rows = bench.read(TEXTS, 32)
    first = [part.batch.acts for part in bench.batches(rows, "test")]
    monkeypatch.setattr(subject, "activations", lambda *_: pytest.fail("the subject was asked again"))
    masked = rows.showing(torch.zeros_like(rows.mask))  # the subject doesn't see the autoencoder's mask
    for acts, part in zip(first, bench.batches(masked, "test"), strict=True):
        assert torch.equal(acts, part.batch.acts)


@pytest.mark.parametrize("change", ["text", "site", "context"])
def test_other_data_never_meet_what_is_kept(subject: Subject, tmp_path, change: str) -> None:
    cache = ActivationCache(tmp_path)
    list(Workbench(subject, SITE, cache=cache).batches(Workbench(subject, SITE).read(TEXTS, 32), "test"))
    site = "blocks.2.hook_resid_post" if change == "site" else SITE
    other = Workbench(subject, site, cache=cache)
    rows = other.read(["Other.", *TEXTS[1:]] if change == "text" else TEXTS, 24 if change == "context" else 32)
    fresh = [part.batch.acts for part in Workbench(subject, site).batches(rows, "test")]
    for acts, part in zip(fresh, other.batches(rows, "test"), strict=True):
        assert torch.equal(acts, part.batch.acts)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_data_set_is_computed_anew(subject: Subject, tmp_path) -> None:
    bench = Workbench(subject, SITE, cache=ActivationCache(tmp_path))
    rows = bench.read([f"{'word ' * 60} {i}" for i in range(PASS_TOKENS // 32)], 64)
    half: Iterator = bench.batches(rows, "test")
    next(half)
    del half
    assert not list(tmp_path.glob("*/complete.json"))
    assert len(list(bench.batches(rows, "test"))) == len(list(tmp_path.glob("*/*.safetensors"))) > 1


def test_what_does_not_fit_is_not_kept(subject: Subject, tmp_path) -> None:
    bench = Workbench(subject, SITE, cache=ActivationCache(tmp_path, keep=10))
    list(bench.batches(bench.read(TEXTS, 32), "test"))
    assert not list(tmp_path.iterdir())


def test_non_finite_activations_are_an_error_that_names_the_site(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(subject, SITE)
    real = subject.activations
    monkeypatch.setattr(subject, "activations", lambda *a: {SITE: real(*a)[SITE] * float("nan")})
    with pytest.raises(UserError, match=SITE):
        list(bench.batches(bench.read(TEXTS, 32), "test"))


def test_pooled_codes_are_those_of_whole_contexts(bench: Workbench) -> None:
    rows = bench.read([t for t in TEXTS if t], 32)
    sae = build("chrono", d_in=bench.subject.info.d_model, d_sae=64, k=4)
    torch.nn.init.normal_(sae.kernel.taps, std=0.3)
    for pooling in ("mean", "max", "last"):
        found = pooled(bench, rows, {"sae": sae}, pooling, "test")
        for row in range(len(rows)):
            one = rows.rows(torch.tensor([row]))
            (part,) = bench.batches(one, "test")
            codes, acts = encode(sae, part.batch).dense()[0][one.mask[0]], part.batch.acts[0][one.mask[0]]
            if not len(codes):
                assert not found["sae"][row].any() and not found[RAW][row].any()
                continue
            expected = {"mean": codes.mean(0), "max": codes.amax(0), "last": codes[-1]}[pooling]
            raw = {"mean": acts.mean(0), "max": acts.amax(0), "last": acts[-1]}[pooling]
            torch.testing.assert_close(found["sae"][row], expected.detach(), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(found[RAW][row], raw, rtol=1e-3, atol=1e-3)


@given(seed=st.integers(0, 200), share=st.floats(0, 1))
def test_sparse_pooling_equals_dense_pooling(seed: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    acts = torch.randn(2, 9, 8, generator=g)
    mask = torch.rand(2, 9, generator=g) < share
    codes = build("topk", d_in=8, d_sae=12, k=3).encode(acts, mask)
    dense = DenseCodes(codes.dense(), None)
    for pooling in ("mean", "max", "last"):
        torch.testing.assert_close(pool_codes(codes, mask, pooling), pool_dense(dense.values, mask, pooling))
    assert torch.equal(last_only(mask).any(1), mask.any(1)) and int(last_only(mask).sum(1).max()) <= 1


def test_randomness_depends_on_its_labels_alone(bench: Workbench) -> None:
    def draw(*labels: str, seed: int = 0) -> float:
        return float(torch.rand(1, generator=Workbench(bench.subject, SITE, seed).generator(*labels)))

    assert draw("a", "b") == draw("a", "b") != draw("ab") != draw("a", "c")
    assert draw("a") != draw("a", seed=1)


def parts(cache: ActivationCache, made: list[int]) -> Iterator[torch.Tensor]:
    return cache.chunks({"a": 1}, 3, 12, lambda i: (made.append(i), torch.full((1,), float(i)))[1])


def test_two_processes_at_the_same_data_leave_one_whole_copy(tmp_path: Path) -> None:
    made: list[int] = []
    first, second = parts(ActivationCache(tmp_path), made), parts(ActivationCache(tmp_path), made)
    next(first), next(second)
    assert [float(t) for t in second] == [1, 2] and [float(t) for t in first] == [1, 2]
    assert made == [0, 0, 1, 2, 1, 2]
    assert [float(t) for t in parts(ActivationCache(tmp_path), made)] == [0, 1, 2] and len(made) == 6
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_pass_leaves_nothing_and_a_lost_chunk_is_computed_again(tmp_path: Path) -> None:
    made: list[int] = []
    begun = parts(ActivationCache(tmp_path), made)
    next(begun)
    begun.close()
    assert not list(tmp_path.iterdir())
    list(parts(ActivationCache(tmp_path), made))
    next(tmp_path.glob("*/00001.safetensors")).write_bytes(b"damaged")
    made.clear()
    assert [float(t) for t in parts(ActivationCache(tmp_path), made)] == [0, 1, 2] and made == [1]
