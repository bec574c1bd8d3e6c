"""The shipped model: whole, small, and knowing its world."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from chronosae.config.errors import UserError
from chronosae.world import CHAINS, make_document, model_folder, score_world
from chronosae.world.chains import GAP_CLASSES
from chronosae.world.knowledge import SUBJECTS
from chronosae.world.lexicon import GENERATOR_VERSION
from chronosae.world.model import check_hashes, continuation_scores, load, wilson


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)


@pytest.fixture(scope="module")
def record():
    return json.loads((model_folder() / "training.json").read_text())


def test_the_shipped_model_is_small_and_stored_in_bf16(record):
    from safetensors import safe_open

    weights = model_folder() / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    with safe_open(weights, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - not a dict
    assert {t.dtype for t in tensors} == {torch.bfloat16}
    assert sum(t.numel() for t in tensors) == record["parameters"] <= 5_500_000


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_harmed_model_is_one_line_that_names_the_file(tmp_path, harm):
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    check_hashes(folder)
    config = folder / "config.json"
    config.unlink() if harm == "missing" else config.write_text(config.read_text() + " ")
    with pytest.raises(UserError, match=f"config.json is {harm}") as error:
        check_hashes(folder)
    assert "\n" not in str(error.value)


def test_the_model_knows_every_subject():
    scores = score_world(formats=("likelihood",), limit=40, extras=False)["likelihood"]
    assert set(scores) == set(SUBJECTS)
    for subject, score in scores.items():
        assert score["n"] == 40 and score["accuracy"] >= 0.95, (subject, score)


def test_the_record_meets_the_requirement_on_all_questions(record):
    assert record["finished"] and record["wall_seconds"] < 3600
    for subject in SUBJECTS:
        assert record["scores"]["likelihood"][subject]["accuracy"] >= 0.95
        assert record["scores"]["likelihood"][subject]["n"] >= 300


def test_the_record_names_the_text_that_the_run_read_not_the_text_of_today(record):
    assert record["generator_version"] == "1" != GENERATOR_VERSION


def test_the_beginning_token_is_added_and_special_tokens_differ(tokenizer):
    ids = tokenizer("The tide came in.").input_ids
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


@given(text=st.text(max_size=40))
def test_every_text_has_tokens_and_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_chain_gaps_lie_in_their_classes(tokenizer):
    measured = {f"{chain.gap}/{chain.name}": [] for chain in CHAINS}
    for i in range(240):
        document = make_document("train", i, kind=("story", "letter", "report", "dialogue")[i % 4])
        offsets = tokenizer(document.text, return_offsets_mapping=True, add_special_tokens=False).offset_mapping
        cues = {a.note: a for a in document.annotations if a.label == "chain_cue"}
        for effect in (a for a in document.annotations if a.label == "chain_effect"):
            last = max(i for i, (start, _) in enumerate(offsets) if start < cues[effect.note].end)
            first = min(i for i, (_, end) in enumerate(offsets) if end > effect.start)
            measured[effect.note].append(first - last)
    for note, gaps in measured.items():
        low, high = GAP_CLASSES[note.split("/")[0]]
        assert gaps and low <= min(gaps) and max(gaps) <= high, (note, gaps)


def test_batched_scores_equal_scores_taken_one_at_a_time():
    model, tokenizer = load(None)
    items = [
        ("Question: Who were the rivals?\nAnswer:", (" the salt guild.", " the river clans and their horses.")),
        ("The day", (" was long.", " smelled of salt and tar.")),
    ]
    together = continuation_scores(model, tokenizer, items, batch=4)
    for (prompt, continuations), row in zip(items, together, strict=True):
        for continuation, score in zip(continuations, row, strict=True):
            ids = torch.tensor([tokenizer(prompt + continuation).input_ids])
            start = len(tokenizer(prompt).input_ids)
            with torch.no_grad():
                logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
            alone = logp.gather(-1, ids[0, 1:, None])[start - 1 :].sum().item()
            assert score == pytest.approx(alone, abs=1e-3)
    one_token = [(prompt, (" A", " B")) for prompt, _ in items]
    fast = continuation_scores(model, tokenizer, one_token)
    slow = continuation_scores(model, tokenizer, [(p, (*c, " the salt")) for p, c in one_token])
    assert [row[:2] for row in slow] == [pytest.approx(row, abs=1e-3) for row in fast]


def test_wilson_intervals_are_the_textbook_ones():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == pytest.approx(1.0)


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match="format"):
        score_world(formats=("essay",))
