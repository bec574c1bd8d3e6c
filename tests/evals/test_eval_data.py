"""Data of evaluations: files in their documented shapes, one clear line for each thing that is wrong."""

import json
from pathlib import Path

import pytest
import torch

from chronosae.config import SubjectConfig, UserError
from chronosae.evals import EVALUATIONS, Workbench
from chronosae.evals.data import LABELLED, QUESTIONS, LabelledTexts
from chronosae.evals.data.providers import in_split
from chronosae.presets import build
from chronosae.subject import Subject
from chronosae.world import model_folder
from chronosae.world.evaluation_data import register

register()


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_folder_holds_both_parts_and_a_file_is_cut_by_its_texts(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(200)]
    for part in ("train", "test"):
        write(tmp_path / f"{part}.jsonl", rows[:100] if part == "train" else rows[100:])
    assert len(LABELLED.read(str(tmp_path), "train", "k")) == 100
    single = str(write(tmp_path / "all.jsonl", rows))
    train, test = (LABELLED.read(single, part, "k") for part in ("train", "test"))
    assert sorted([*train.texts, *test.texts]) == sorted(row["text"] for row in rows)
    assert 20 <= len(test) <= 60
    assert train.classes == ("a", "b")


def test_spans_second_labels_and_groups_are_read(tmp_path: Path) -> None:
    rows = [
        {"text": "who paid", "label": i % 2, "start": 0, "end": 3, "second_label": "x", "group": i} for i in range(60)
    ]
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(rows)]
    data = LABELLED.read(str(write(tmp_path / "spans.jsonl", rows)), "train", "k")
    assert data.spans is not None and data.second is not None and data.groups is not None
    assert set(data.spans) == {(0, 3)} and set(data.second) == {"x"} and data.classes == ("0", "1")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "a"}], "'label'"),
        ([{"text": "", "label": "a"}], "'text'"),
        (["not json"], "is not JSON"),
        (["[1]"], "not an object"),
        ([{"text": f"{i}", "label": "a"} for i in range(50)], "fewer than two labels"),
        ([{"text": "abc", "label": "a", "start": 2, "end": 9}], "start and end"),
        ([{"text": f"a{i}", "label": i % 2, **({"group": 1} if i else {})} for i in range(50)], "some rows"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_row(tmp_path: Path, rows: list, says: str) -> None:
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(UserError, match=says) as error:
        LABELLED.read(str(path), "train", "k")
    assert "bad.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_mmlu_csv_and_jsonl_questions_are_read(tmp_path: Path) -> None:
    csv = tmp_path / "human_aging_test.csv"
    csv.write_text('"Who, then?",a,b,c,"d, e",D\n')
    found = QUESTIONS.read(str(csv), "test", "k")
    assert found.name == "human_aging"
    assert found.questions[0].options == ("a", "b", "c", "d, e") and found.questions[0].answer == 3
    rows = [{"question": "Why?", "choices": list("abcd"), "answer": 1}]
    assert QUESTIONS.read(str(write(tmp_path / "q.jsonl", rows)), "test", "k").questions[0].answer == 1


@pytest.mark.parametrize("line", ["q,a,b,c,D", "q,a,b,c,d,E", "q,a,b,c,d,"])
def test_a_damaged_question_is_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "q.csv").write_text(line + "\n")
    with pytest.raises(UserError, match=r"q\.csv:1"):
        QUESTIONS.read(str(tmp_path / "q.csv"), "test", "k")


def test_real_mmlu_files_are_read(shared: Path) -> None:
    found = QUESTIONS.read(str(shared / "data/multiple_choice/mmlu/human_aging_test.csv"), "test", "k")
    assert len(found) == 223


def test_what_is_missing_is_told_before_anything_is_read() -> None:
    missing = LABELLED.missing("no/such/thing", "evals.sparse_probing.data")
    assert missing is not None and "--set evals.sparse_probing.data=PATH" in missing.how
    with pytest.raises(UserError, match="world/subject"):
        LABELLED.read("no/such/thing", "train", "k")


def test_the_world_has_labelled_texts_and_questions_whose_parts_share_no_text() -> None:
    train, test = (LABELLED.read("world/subject", part, "k") for part in ("train", "test"))
    assert not set(train.texts) & set(test.texts)
    assert len(QUESTIONS.read("world/pathogens", "test", "k")) > 100


def test_a_file_is_cut_between_groups_and_as_before_without_them(tmp_path: Path) -> None:
    plain = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(400)]
    grouped = [row | {"group": f"document {i // 8}"} for i, row in enumerate(plain)]
    for name, rows in (("plain", plain), ("grouped", grouped)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, test = (LABELLED.read(str(tmp_path / "grouped.jsonl"), part, "k") for part in ("train", "test"))
    assert train.groups and test.groups and not set(train.groups) & set(test.groups)
    assert len(train) + len(test) == 400 and 40 <= len(test) <= 120
    test = LABELLED.read(str(tmp_path / "plain.jsonl"), "test", "k")
    assert set(test.texts) == {row["text"] for row in plain if in_split(row["text"], "test")}


def test_balanced_rows_are_as_many_of_each_class() -> None:
    data = LabelledTexts("d", tuple(map(str, range(90))), tuple("aab" * 30))
    some = data.balanced(40, torch.Generator().manual_seed(0))
    assert sorted(some.labels) == ["a"] * 20 + ["b"] * 20
    assert some == data.balanced(40, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["sentence_polarity", "subjectivity"])
def test_real_labelled_texts_can_be_probed_whole(name: str, shared: Path) -> None:
    """A model that has only read of an invented world knows something of plots against opinions, little of polarity."""
    folder = str(shared / "data" / "text_classification" / name)
    train, test = (LABELLED.read(folder, part, "k") for part in ("train", "test"))
    assert train.classes == test.classes and len(train) > len(test) >= 100
    subject = Subject.load(SubjectConfig(model=str(model_folder()), device="cpu"), name="world")
    sae = build("topk", d_in=subject.info.d_model, d_sae=64, k=8)
    probing = EVALUATIONS["sparse_probing"].read({"data": [folder], "k": [5], "train_rows": 80, "test_rows": 60})
    found = probing.run(Workbench(subject, "blocks.1.hook_resid_post"), {"s": sae})
    accuracy = found["s"].flat["llm_test_accuracy"]
    assert accuracy is not None and 0.4 < accuracy < 0.9


def test_what_is_resampled_together_has_a_number_by_first_appearance() -> None:
    plain = LabelledTexts("set", ("b", "a", "b", "c"), ("x", "y", "x", "y"))
    assert plain.group_ids.tolist() == [0, 1, 0, 2]
    grouped = LabelledTexts("set", plain.texts, plain.labels, groups=("q", "q", "p", "q"))
    assert grouped.group_ids.tolist() == [0, 0, 1, 0]
    assert grouped.rows([2, 0]).group_ids.tolist() == [0, 1]
