"""Evaluations beside core, from a configuration and on a finished run: what is checked before, kept after, and said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chronosae.cli import main
from chronosae.config import load_config
from chronosae.evals import EVALUATIONS
from chronosae.pipeline import Reporter, run
from chronosae.pipeline.evaluations import evaluate_run, plan_job

WriteConfig = Callable[..., Path]
SMALL = {"k": [1, 5], "train_rows": 40, "test_rows": 20, "context": 16}

TPP = [f"evals.tpp.{key}" for key in ("train_size=60", "test_size=40", "ns=[2]", "probe_seeds=1", "context=16")]


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
    assert not list((finished / "evals").glob("cache*"))
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

    monkeypatch.setattr(EVALUATIONS["tpp"], "run", interrupted)
    job = plan_job(finished, ["sparse_probing", "tpp"], settings(labelled)[1::2])
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(job)
    assert "sparse_probing" in read(finished)["saes"]["topk"]["metrics"]


def test_an_evaluation_that_breaks_loses_neither_the_others_nor_the_traceback(
    finished: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = settings(labelled)[1::2]
    evaluate_run(plan_job(finished, ["tpp", "sparse_probing"], [*overrides, *TPP]))
    assert "tpp" in read(finished)["saes"]["topk"]["metrics"]

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(EVALUATIONS["tpp"], "run", broken)
    info = evaluate_run(plan_job(finished, ["tpp", "sparse_probing"], overrides))
    assert info == read(finished)
    (flag,) = (flag for flag in info["flags"] if flag.startswith("not_evaluated: tpp"))
    assert "RuntimeError: out of memory" in flag
    assert "in broken" in (finished / "evals" / "tpp" / "error.txt").read_text()
    assert "sparse_probing" in info["saes"]["topk"]["metrics"]
    # What it had said before stays neither as a number nor as a flag nor as a file.
    assert "tpp" not in info["saes"]["topk"]["metrics"] and not list((finished / "evals" / "tpp").glob("*.json"))
    assert not any(flag.startswith("tpp.") for flag in info["saes"]["topk"]["flags"])
    later = evaluate_run(plan_job(finished, ["sparse_probing"], overrides))
    assert flag in later["flags"]  # another evaluation doesn't make up for it
    assert not list((finished / "evals").glob("cache*"))


def test_cores_flags_are_those_of_its_last_evaluation(finished: Path) -> None:
    info = read(finished)
    info["saes"]["topk"]["flags"] = ["worse_than_mean", "fewer_than_k_fire: L0 1", "tpp.disputed: x"]
    info["flags"] = ["not_evaluated: blocks.1.hook_resid_post: no text", "not_evaluated: tpp at x: y"]
    (finished / "final_info.json").write_text(json.dumps(info))
    info = evaluate_run(plan_job(finished, ["core"]))
    flags = info["saes"]["topk"]["flags"]
    assert "worse_than_mean" not in flags and {"fewer_than_k_fire: L0 1", "tpp.disputed: x"} <= set(flags)
    assert info["flags"] == ["not_evaluated: tpp at x: y"]


def test_a_run_folder_cannot_say_where_text_and_keys_are_sent(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's run folder names his own server and one of our secrets."""
    monkeypatch.setenv("MY_SECRET", "a-secret-of-ours")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run(load_config(write_config()), tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    theirs = {"base_url": "http://127.0.0.1:9", "model": "m", "key_env": "MY_SECRET", "data": str(tmp_path)}
    cfg = yaml.safe_load(path.read_text())
    cfg["evals"]["autointerp"] = theirs | {"n_latents": 7}
    path.write_text(yaml.safe_dump(cfg))
    (chosen,) = plan_job(tmp_path / "run", ["autointerp"]).chosen
    assert (chosen.base_url, chosen.key_env, chosen.data) == (None, "OPENAI_API_KEY", "world")
    assert chosen.n_latents == 7
    mine = ["evals.autointerp.base_url=http://localhost:9", "evals.autointerp.key_env=null"]
    (chosen,) = plan_job(tmp_path / "run", ["autointerp"], mine).chosen
    assert chosen.base_url == "http://localhost:9" and chosen.data == "world"


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


def test_damaged_data_are_told_before_training(
    write_config: WriteConfig, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled.write_text(labelled.read_text() + '{"text": "no label"}\n')
    config = write_config(evals={"sparse_probing": {"data": [str(labelled)], **SMALL}})
    assert main(["run", str(config), "--out-dir", str(tmp_path / "out")]) == 2
    assert f"{labelled.name}:301" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [False, True])
def test_the_recipe_for_gemma_names_each_missing_piece(
    dry: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[2] / "configs" / "unlearning-gemma-2-2b-it.yaml"
    code = main(["run", str(config), "--out-dir", str(tmp_path / "out"), *(["--dry-run"] if dry else [])])
    told = capsys.readouterr()
    assert code == (0 if dry else 2) and not (tmp_path / "out").exists()
    pieces = (
        "google/gemma-2-2b-it",
        "bio-forget-corpus",
        "wmdp-bio",
        "cais/mmlu/human_aging",
        "chat template",
        "gated",
    )
    assert all(piece in (told.out if dry else told.err) for piece in pieces)


def test_evaluations_of_a_configuration_run_at_the_end_of_a_run(
    write_config: WriteConfig, labelled: Path, tmp_path: Path
) -> None:
    core = {"tokens": 256, "behaviour_tokens": 128, "batch_sequences": 4}
    config = write_config(evals={"core": core, "sparse_probing": {"data": [str(labelled)], **SMALL}})
    info = run(load_config(config), tmp_path / "out")
    assert info == read(tmp_path / "out")
    own = {name: sae["metrics"]["sparse_probing"] for name, sae in info["saes"].items()}
    assert set(own) == {"topk", "relu_l1"} and all(0 <= m["sae_top_1_test_accuracy"] <= 1 for m in own.values())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "complete"
    job = plan_job(tmp_path / "out", ["sparse_probing"])
    later = evaluate_run(job)
    assert {name: sae["metrics"]["sparse_probing"] for name, sae in later["saes"].items()} == own
