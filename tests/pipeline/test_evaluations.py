"""Evaluations beside core, from a configuration and on a finished run: what is checked before, kept after, and said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chronosae.cli import main
from chronosae.config import load_config
from chronosae.evals import find_evaluation
from chronosae.pipeline import Reporter, run
from chronosae.pipeline.evaluate_run import evaluate_run, plan_job

WriteConfig = Callable[..., Path]
SMALL = {"k": [1, 5], "train_rows": 40, "test_rows": 20, "context": 16}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    rows = [{"text": f"The {'cat' if i % 2 else 'river'} number {i} is here.", "label": str(i % 2)} for i in range(300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def finished(write_config: WriteConfig, labelled: Path, tmp_path: Path) -> Path:
    """A finished run; its configuration has options for an evaluation that it didn't ask for yet."""
    run(load_config(write_config()), tmp_path / "run")
    return tmp_path / "run"


def settings(labelled: Path) -> list[str]:
    options = {"data": [str(labelled)], **SMALL}
    return [
        part for key, value in options.items() for part in ("--set", f"evals.sparse_probing.{key}={json.dumps(value)}")
    ]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "final_info.json").read_text())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_evaluated_and_keeps_what_it_had(finished: Path, labelled: Path) -> None:
    before = read(finished)
    assert main(["eval", str(finished), "--evals", "sparse_probing", *settings(labelled)]) == 0
    info = read(finished)
    for name, sae in info["saes"].items():
        assert sae["metrics"]["core"] == before["saes"][name]["metrics"]["core"]
        found = json.loads((finished / "evals" / "sparse_probing" / f"{name}_eval_results.json").read_text())
        assert sae["metrics"]["sparse_probing"] == found["chronosae"]["metrics"]
        assert found["chronosae"]["config"]["k"] == [1, 5]
        assert {f"sparse_probing.{flag}" for flag in found["chronosae"]["flags"]} <= set(sae["flags"])
    assert not (finished / "evals" / "cache").exists()
    assert "sparse_probing" in (finished / "notes.md").read_text()
    again = [finished / "evals" / "sparse_probing" / "topk_eval_results.json"]
    first = [json.loads(path.read_text())["eval_result_metrics"] for path in again]
    assert main(["eval", str(finished), "--evals", "sparse_probing", "--sae", "topk", *settings(labelled)]) == 0
    assert first == [json.loads(path.read_text())["eval_result_metrics"] for path in again]


def test_what_is_missing_is_said_at_once_before_anything_is_written(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = snapshot(finished)
    gone = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    arguments = ["eval", str(finished), "--evals", "sparse_probing,autointerp"]
    arguments += ["--set", f"evals.sparse_probing.data={json.dumps(gone)}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert all(path in error for path in gone) and "autointerp" in error and error.count("\n") == 1
    assert main([*arguments, "--preflight"]) == 2
    told = capsys.readouterr().out
    assert all(path in told for path in gone) and "sparse_probing: lacks" in told and "autointerp: lacks" in told
    assert snapshot(finished) == before


def test_all_leaves_out_what_lacks_something_and_says_so(
    finished: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said: list[str] = []
    overrides = settings(labelled)[1::2]
    job = plan_job(finished, ["sparse_probing", "autointerp"], overrides)
    assert set(job.lacking) == {"autointerp"}

    class Listening(Reporter):
        def note(self, text: str) -> None:
            said.append(text)

    info = evaluate_run(job, Listening(), skip_missing=True)
    assert "sparse_probing" in info["saes"]["topk"]["metrics"] and "autointerp" not in info["saes"]["topk"]["metrics"]
    assert any(line.startswith("autointerp is left out") for line in said)


def test_an_evaluation_that_fails_is_a_flag_and_the_others_are_kept(
    finished: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model is at chance on what it should forget, which only running it tells."""
    arguments = ["eval", str(finished), "--evals", "unlearning,sparse_probing", *settings(labelled)]
    arguments += ["--set", "evals.unlearning.text_tokens=300", "--set", "evals.unlearning.max_questions=12"]
    assert main([*arguments, "--set", "evals.unlearning.context=16"]) == 1
    assert "chance" in " ".join(capsys.readouterr().out.split())
    info = read(finished)
    assert any(flag.startswith("not_evaluated: unlearning") for flag in info["flags"])
    assert "sparse_probing" in info["saes"]["topk"]["metrics"]
    assert "unlearning" not in info["saes"]["topk"]["metrics"]


def test_an_interrupted_call_keeps_the_results_it_had(
    finished: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(find_evaluation("tpp")), "run", interrupted)
    job = plan_job(finished, ["sparse_probing", "tpp"], settings(labelled)[1::2])
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(job)
    assert "sparse_probing" in read(finished)["saes"]["topk"]["metrics"]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--set", "training.lr=1"], "only keys under evals can be set"),
        (["--set", "evals.tpp.nonsense=1"], "nonsense"),
        (["--sae", "nobody"], "the run has topk, relu_l1"),
    ],
)
def test_bad_arguments_are_one_line(
    finished: Path, extra: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(finished)
    assert main(["eval", str(finished), "--evals", "tpp", *extra]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and snapshot(finished) == before


def test_a_run_whose_evaluation_lacks_data_stops_before_it_trains(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = str(tmp_path / "gone.jsonl")
    config = write_config(evals={"sparse_probing": {"data": [gone]}})
    assert main(["run", str(config), "--out-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert gone in error and "evals.sparse_probing.data" in error and not (tmp_path / "out").exists()


def test_evaluations_of_a_configuration_run_at_the_end_of_a_run(
    write_config: WriteConfig, labelled: Path, tmp_path: Path
) -> None:
    core = {"tokens": 256, "behaviour_tokens": 128, "batch_sequences": 4}
    config = write_config(evals={"core": core, "sparse_probing": {"data": [str(labelled)], **SMALL}})
    info = run(load_config(config), tmp_path / "out")
    assert info == read(tmp_path / "out")
    own = {name: sae["metrics"]["sparse_probing"] for name, sae in info["saes"].items()}
    assert set(own) == {"topk", "relu_l1"} and all(0 <= m["sae_top_1_test_accuracy"] <= 1 for m in own.values())
    job = plan_job(tmp_path / "out", ["sparse_probing"])
    later = evaluate_run(job)
    assert {name: sae["metrics"]["sparse_probing"] for name, sae in later["saes"].items()} == own
