"""Packing and a miniature of the training command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chronosae.config.errors import UserError
from chronosae.world import build_tokenizer, make_document, train_world
from chronosae.world.model import check_hashes
from chronosae.world.train import (
    LABEL_WEIGHTS,
    Packer,
    Recipe,
    bf16_is_fast,
    build_model,
    encode,
    learning_rate,
    mixture_at,
    new_folder,
    weighted_loss,
)

TINY = Recipe(
    hidden_size=32, intermediate_size=48, layers=1, heads=2, context=64, rows=2, steps=4, tokenizer_documents=20
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(documents=20)


def test_the_curriculum_is_a_distribution_everywhere():
    for percent in range(0, 101, 5):
        mixture = mixture_at(percent / 100)
        assert sum(mixture.values()) == pytest.approx(1) and min(mixture.values()) >= 0
    assert mixture_at(0.0).get("letters", 0) < 0.01 < mixture_at(1.0)["letters"]


def test_rows_start_with_a_document_and_repeat_exactly(tokenizer):
    ids, weights = Packer(tokenizer, 64, seed=3).rows(5, 0.5)
    assert (ids, weights) == Packer(tokenizer, 64, seed=3).rows(5, 0.5)
    assert all(len(row) == 64 and row[0] == tokenizer.bos_token_id for row in ids)
    assert all(len(row) == 64 for row in weights)


def test_answers_weigh_more_than_other_tokens(tokenizer):
    document = make_document("train", 5, kind="letters")
    ((ids, weights),) = encode([document], tokenizer)
    heavy = [
        tokenizer.decode([i]).strip() for i, w in zip(ids, weights, strict=True) if w == LABEL_WEIGHTS["answer_letter"]
    ]
    assert heavy == [document.text[a.start : a.end] for a in document.annotations if a.label == "answer_letter"]


def test_the_weighted_loss_is_the_plain_loss_when_all_weights_are_one(tokenizer):
    model = build_model(TINY, len(tokenizer), seed=0)
    ids = torch.randint(3, len(tokenizer), (2, 16))
    loss, plain = weighted_loss(model, ids, torch.ones(2, 16))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    weights = torch.ones(2, 16)
    weights[0] = 0
    second_row, _ = weighted_loss(model, ids[1:], torch.ones(1, 16))
    assert weighted_loss(model, ids, weights)[0].item() == pytest.approx(second_row.item(), rel=1e-5)


def test_the_learning_rate_warms_up_and_decays():
    recipe = Recipe()
    assert learning_rate(0.0, 0, recipe) < recipe.lr / 100
    assert learning_rate(0.3, recipe.warmup_steps, recipe) > learning_rate(0.9, 4000, recipe)
    assert learning_rate(1.0, 5000, recipe) == pytest.approx(recipe.final_lr)


def test_a_miniature_training_writes_a_whole_folder_twice_the_same(tmp_path):
    first = train_world(tmp_path / "a", recipe=TINY, score=False, quiet=True, device="cpu")
    train_world(tmp_path / "b", recipe=TINY, score=False, quiet=True, device="cpu")
    assert first["steps"] == 4 and first["tokens"] == 4 * 2 * 64 and first["finished"]
    check_hashes(tmp_path / "a")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"} and not list(tmp_path.glob("*/.partial"))


def test_checkpoints_replace_one_another_and_leave_a_whole_folder(tmp_path):
    often = replace(TINY, checkpoint_minutes=0.0)
    train_world(tmp_path / "model", recipe=often, score=False, quiet=True, device="cpu")
    check_hashes(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "training.json").read_text())["finished"]


def test_an_empty_folder_is_filled_even_when_it_is_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_world(Path(), recipe=TINY, score=False, quiet=True, device="cpu")
    check_hashes(Path.cwd())


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("out_dir", ["work", "work/letter.txt", "work/letter.txt/model", "."])
def test_a_folder_that_holds_something_is_refused_before_training_and_left_as_it_was(tmp_path, monkeypatch, out_dir):
    monkeypatch.chdir(tmp_path)
    for path in (Path("work"), Path("work.old"), Path("work.partial")):
        path.mkdir()
        (path / "letter.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="--out-dir") as error:
        train_world(Path(out_dir), recipe=Recipe(), quiet=True, device="cpu")
    assert "\n" not in str(error.value) and contents(tmp_path) == before


def test_a_training_that_fails_leaves_what_lies_beside_it_and_no_empty_folder(tmp_path):
    for name in ("model.old", "model.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letter.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"the loss is (nan|inf)"):
        broken = replace(TINY, lr=1e30)
        train_world(tmp_path / "model", recipe=broken, score=False, quiet=True, device="cpu")
    assert contents(tmp_path) == before and not (tmp_path / "model").exists()


def test_two_trainings_cannot_share_a_folder(tmp_path):
    with new_folder(tmp_path / "model"), pytest.raises(UserError, match="isn't an empty folder"):
        train_world(tmp_path / "model", recipe=TINY, score=False, quiet=True, device="cpu")


@pytest.mark.parametrize("device", ["quantum", "cuda:99"])
def test_a_device_that_does_not_exist_is_one_line_and_leaves_no_folder(tmp_path, device):
    with pytest.raises(UserError, match=f"--device '{device}'") as error:
        train_world(tmp_path / "model", recipe=TINY, quiet=True, device=device)
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_a_torch_that_cannot_name_the_processors_capabilities_trains_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not bf16_is_fast(torch.device("cpu")) and bf16_is_fast(torch.device("cuda"))


def test_a_senseless_time_limit_is_refused(tmp_path):
    with pytest.raises(UserError, match="minutes"):
        train_world(tmp_path, minutes=0.0)
