"""The live stream: what a batch holds, and that a resumed run sees exactly the same ones."""

import shutil
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronosae.activations import (
    Encoder,
    LiveStream,
    Sequences,
    heldout_batches,
    heldout_tokens,
    open_stream,
    training_sequences,
)
from chronosae.config import UserError
from chronosae.corpora import CORPORA, Corpus, Mixture
from chronosae.subject import Subject


def assert_equal_batches(left, right):
    assert list(left) == list(right)
    for site, batch in left.items():
        for name in ("acts", "mask", "tokens", "positions", "doc_ids"):
            assert torch.equal(getattr(batch, name), getattr(right[site], name)), (site, name)
        assert batch.source == right[site].source


def through_disk(state, folder):
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def test_a_batch_holds_whole_contexts_read_by_the_subject(tiny, run_config):
    cfg = run_config()
    batches = open_stream(cfg, tiny).next()
    assert list(batches) == cfg.subject.sites
    for site, batch in batches.items():
        assert batch.acts.shape == (6, 16, 16)
        # 6 sequences cut from chunks of 4: the subject's own answer, up to the shape of the forward pass
        torch.testing.assert_close(batch.acts, tiny.activations(batch.tokens, [site])[site])
        assert not batch.mask[:, 0].any() and (batch.tokens[:, 0] == 0).all()
        assert torch.equal(batch.positions, batch.mask.cumsum(1) - 1)
        assert set(batch.source) <= {"forget", "keep"}


@pytest.mark.parametrize("harvest_sequences", [1, 4, 6, 7, 12])
def test_batches_are_the_same_sequences_whatever_the_size_of_a_forward_pass(tiny, run_config, harvest_sequences):
    cfg = run_config()
    acts = cfg.activations.model_copy(update={"harvest_sequences": harvest_sequences})
    stream = open_stream(cfg.model_copy(update={"activations": acts}), tiny)
    sequences = training_sequences(cfg, tiny)
    for _ in range(5):
        expected, batch = sequences.take(6), stream.next()[cfg.subject.sites[0]]
        assert torch.equal(batch.tokens, expected.tokens) and torch.equal(batch.doc_ids, expected.doc_ids)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 5, 9])
def test_a_stream_resumed_at_any_batch_goes_on_as_if_uninterrupted(tiny, run_config, tmp_path, stop):
    cfg = run_config()
    first = open_stream(cfg, tiny)
    for _ in range(stop):
        first.next()
    state = through_disk(first.state_dict(), tmp_path)
    second = open_stream(cfg, tiny)
    second.load_state_dict(state)
    assert second.epochs == first.epochs
    for _ in range(6):
        assert_equal_batches(second.next(), first.next())


def test_sequences_are_shuffled_and_tokens_never(tiny, run_config):
    cfg = run_config()
    shuffled = training_sequences(cfg, tiny).take(40)
    mixture = training_sequences(cfg, tiny).mixture
    in_order = Sequences(mixture, Encoder(tiny.tokenizer), cfg.activations, shuffle=False).take(60)
    ordered = {tuple(row) for row in in_order.tokens.tolist()}
    rows = [tuple(row) for row in shuffled.tokens.tolist()]
    assert set(rows) <= ordered
    assert rows != [tuple(row) for row in in_order.tokens.tolist()][:40]


def test_a_sequence_belongs_to_one_source_and_says_which(tiny, run_config):
    tokens = training_sequences(run_config(), tiny).take(60)
    for row, mask, source in zip(tokens.tokens, tokens.mask, tokens.source, strict=True):
        text = tiny.tokenizer.decode(row[mask])
        assert ("keep" if source == "forget" else "forget") not in text
    assert Counter(tokens.source)["keep"] > Counter(tokens.source)["forget"] > 0


def numbers(documents):
    """The first two words of whole documents: `keep 4`."""
    return {" ".join(text.split()[:2]) for text in documents[:-2] if text.split()[1:]}


def test_held_out_text_is_never_trained_on(tiny, run_config, documents_in):
    cfg = run_config()
    heldout = numbers(documents_in(heldout_tokens(cfg, tiny, 1000)))
    trained = numbers(documents_in(training_sequences(cfg, tiny, for_cache=True).take(1000)))
    assert heldout and trained and not heldout & trained
    assert {"keep 4", "forget 9"} <= heldout and {"keep 3", "forget 8"} <= trained


def test_held_out_batches_are_the_same_each_time_and_use_no_document_twice(tiny, run_config):
    cfg = run_config()
    first, second = (list(heldout_batches(cfg, tiny, 1000, 3)) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        assert_equal_batches(left, right)
    assert len(list(heldout_batches(cfg, tiny, 5, 3))) == 2
    tokens = heldout_tokens(cfg, tiny, 1000)
    assert 1 <= len(tokens) == sum(b[cfg.subject.sites[0]].n_sequences for b in first) < 1000


def test_eval_path_serves_the_evaluations_and_frees_the_held_out_documents(tiny, run_config, tmp_path, documents_in):
    (tmp_path / "eval.txt").write_text("evaluation text " * 9)
    cfg = run_config()
    cfg = cfg.model_copy(update={"corpus": cfg.corpus.model_copy(update={"eval_path": str(tmp_path / "eval.txt")})})
    assert set(heldout_tokens(cfg, tiny, 4).source) == {"eval.txt"}
    trained = numbers(documents_in(training_sequences(cfg, tiny, for_cache=True).take(1000)))
    assert {"keep 3", "keep 4", "forget 9"} <= trained


def with_corpus(cfg, **changes):
    return cfg.model_copy(update={"corpus": cfg.corpus.model_copy(update=changes)})


def test_text_that_is_trained_on_is_refused_for_the_evaluations_by_any_name(tiny, run_config, tmp_path):
    cfg = run_config()
    message = r"^corpus\.eval_path: .*forget\.txt is trained on too \(source 'forget'\)"
    (tmp_path / "copies").mkdir()
    shutil.copy(tmp_path / "forget.txt", tmp_path / "copies" / "b.forget.txt")
    (tmp_path / "copies" / "a.txt").write_text("fresh")
    for path, separator in (
        (tmp_path / "forget.txt", "\n\n"),
        (tmp_path / "forget.txt", None),
        (tmp_path / "copies", "\n"),
    ):
        with pytest.raises(UserError, match=message):
            heldout_batches(with_corpus(cfg, eval_path=str(path), separator=separator), tiny, 4, 2)
    (tmp_path / "other.txt").write_text((tmp_path / "forget.txt").read_text().replace("forget", "others"))
    assert len(heldout_tokens(with_corpus(cfg, eval_path=str(tmp_path / "other.txt")), tiny, 4))


def test_a_registered_corpus_evaluates_on_another_split_or_subset_than_it_trains_on(tiny, run_config):
    @CORPORA.add
    class Parted(Corpus):
        name = "parted"

        def documents(self, start=0):
            return iter(([f"{self.split} {self.subset} text " * 3] * 40)[start:])

    cfg = with_corpus(run_config(corpus={"path": "parted", "subset": "small"}), eval_path="parted")
    with pytest.raises(UserError, match=r"corpus\.eval_path: 'parted' with split 'train'.*set corpus\.eval_split"):
        heldout_tokens(cfg, tiny, 4)
    for part, words in (({"eval_split": "test"}, "test small"), ({"eval_subset": "large"}, "train large")):
        tokens = heldout_tokens(with_corpus(cfg, **part), tiny, 4)
        assert words in tiny.tokenizer.decode(tokens.tokens.flatten())


def one_source(run_config, path, **changes):
    return run_config(corpus={"path": str(path), **changes})


@pytest.mark.parametrize("text", ["short", "one\n\ntwo\n\n3"])
def test_a_corpus_smaller_than_one_context_is_an_error(tiny, run_config, tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    n_tokens = len(text.replace("\n\n", ""))
    with pytest.raises(UserError, match=f"'a.txt' has {n_tokens} tokens, fewer than one context of 16"):
        open_stream(one_source(run_config, tmp_path / "a.txt"), tiny).next()


def test_one_token_documents_fill_contexts(tiny, run_config, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join("x" * 40))
    batch = open_stream(one_source(run_config, tmp_path / "a.txt"), tiny).next()["blocks.0.hook_resid_post"]
    assert (batch.mask.sum(1) == 8).all()


def test_too_little_held_out_text_says_what_to_set(tiny, run_config, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(["some words"] * 6))
    with pytest.raises(UserError, match=r"set corpus\.eval_path.*corpus\.holdout_every"):
        heldout_batches(one_source(run_config, tmp_path / "a.txt"), tiny, 4, 2)


def test_a_context_longer_than_the_model_is_an_error_that_names_the_key(tiny, run_config):
    cfg = run_config(activations={"context": 128}, training={"tokens": 256, "batch_tokens": 128})
    with pytest.raises(UserError, match=r"activations\.context \(128\) is more than the 64 tokens"):
        open_stream(cfg, tiny)


def test_nan_activations_are_refused_where_they_are_kept_or_evaluated_and_handed_on_to_the_trainer(tiny, run_config):
    cfg = run_config()
    weight = tiny.model.model.layers[0].mlp.down_proj.weight
    before = weight.detach().clone()
    try:
        weight.data[0, 0] = float("nan")
        with pytest.raises(UserError, match=r"activations at blocks\.0\.hook_resid_post are NaN.*source: .*keep"):
            next(heldout_batches(cfg, tiny, 4, 2))
        early = "blocks.0.hook_attn_out"  # before the damage
        mixed = run_config(subject={"sites": [early, *cfg.subject.sites]})
        with pytest.raises(UserError, match=r"activations at blocks\.0\.hook_resid_post are NaN"):
            next(heldout_batches(mixed, tiny, 4, 2))
        alone = next(heldout_batches(mixed, tiny, 4, 2, sites=[early]))
        assert list(alone) == [early] and torch.isfinite(alone[early].acts).all()
        batch = open_stream(cfg, tiny).next()["blocks.0.hook_resid_post"]
        assert not torch.isfinite(batch.acts).all()
    finally:
        weight.data.copy_(before)


def test_a_tokenizer_of_another_model_is_an_error(tiny, run_config):
    class Shifted:
        bos_token_id, eos_token_id, pad_token_id = 0, 1, 2

        def __call__(self, texts, **options):
            return {"input_ids": [[999] * 40 for _ in texts]}

    subject = Subject(tiny.model, Shifted(), "tiny")
    with pytest.raises(UserError, match=r"subject\.tokenizer makes token 999, but tiny knows only 260"):
        open_stream(run_config(), subject).next()


def test_a_state_of_other_sizes_is_refused(tiny, run_config):
    cfg = run_config()
    stream = open_stream(cfg, tiny)
    stream.next()
    other = cfg.activations.model_copy(update={"harvest_sequences": 5})
    with pytest.raises(UserError, match=r"activations\.harvest_sequences=4"):
        open_stream(cfg.model_copy(update={"activations": other}), tiny).load_state_dict(stream.state_dict())
    with pytest.raises(UserError, match="comes from a cache"):
        stream.load_state_dict({"epoch": 0})


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(20, 60), min_size=3, max_size=8),
    window=st.integers(1, 9),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 5),
    stop=st.integers(0, 6),
)
def test_resuming_is_exact_for_any_sizes(tiny, run_config_values, sizes, window, batch, chunk, stop):
    def stream():
        acts = run_config_values.model_copy(update={"shuffle_buffer": window, "harvest_sequences": chunk})
        sources = [Listed(f"s{i}", ["z" * n, "y" * (n // 2)]) for i, n in enumerate(sizes)]
        sequences = Sequences(Mixture(sources, seed=3), Encoder(tiny.tokenizer), acts, seed=3)
        sites = ["blocks.0.hook_resid_post"]
        return LiveStream(sequences, tiny, sites, batch_sequences=batch, harvest_sequences=chunk)

    first, second = stream(), stream()
    for _ in range(stop):
        first.next()
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        assert_equal_batches(second.next(), first.next())


class Listed:
    def __init__(self, name, rows, fingerprint="listed"):
        self.name, self._rows, self.fingerprint = name, rows, fingerprint

    def documents(self, start=0):
        return iter(self._rows[start:])


@pytest.fixture(scope="module")
def run_config_values():
    from chronosae.config import ActivationsConfig

    return ActivationsConfig(context=16)
