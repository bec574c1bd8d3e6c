"""Reading run folders: what is kept, what is refused, and in whose name."""

import json
import subprocess
import sys

import pytest
from run_folders import sae, write, write_evaluation, write_interrupted, write_run, write_training

from chronosae.config import UserError
from chronosae.report import read_run, read_runs


def test_a_run_is_read_with_its_autoencoders_in_the_order_of_the_file(tmp_path):
    run = read_run(
        write_run(tmp_path / "run_0", {"relu_l1": sae("relu_l1"), "topk": sae(), "topk@2": sae("topk@2", 1)})
    )
    assert [s.name for s in run.saes] == ["relu_l1", "topk", "topk@2"]
    assert [s.base for s in run.saes] == ["relu_l1", "topk", "topk"]
    assert (run.saes[1].target, run.saes[0].target) == (32.0, 32.0)
    assert run.saes[1].d_sae == 2048 and run.saes[2].seed == 1


def test_a_folder_of_runs_stands_for_its_complete_runs_in_natural_order(tmp_path):
    for name in ("run_10", "run_2", "run_1"):
        write_run(tmp_path / name)
    (tmp_path / "not_a_run").mkdir()
    assert [run.label for run in read_runs([tmp_path])] == ["run_1", "run_2", "run_10"]


def test_a_run_named_twice_is_read_once_and_equal_names_are_told_apart(tmp_path):
    a, b = write_run(tmp_path / "a" / "run_0"), write_run(tmp_path / "b" / "run_0")
    assert [run.label for run in read_runs([a, b, a])] == ["a/run_0", "b/run_0"]


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_an_incomplete_run_is_refused_with_its_status_and_the_way_on(tmp_path, status):
    folder = write_interrupted(tmp_path / "run_0", status)
    with pytest.raises(UserError, match=rf"run_0.*{status}.*chronosae run .*--resume"):
        read_run(folder)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match="not a run folder"):
        read_runs([tmp_path])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        read_run(tmp_path / "file")
    with pytest.raises(UserError, match="no run folders given"):
        read_runs([])


@pytest.mark.parametrize("damage", ['{"saes": {', "[1, 2]", "{}", '{"saes": {"topk": 3}}', '{"saes": [], "schema": 1}'])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = write_run(tmp_path / "run_0") / "final_info.json"
    path.write_text(damage)
    with pytest.raises(UserError, match=r"run_0/final_info\.json.*damaged"):
        read_run(tmp_path / "run_0")


def test_bytes_that_are_no_text_are_named_too(tmp_path):
    path = write_run(tmp_path / "run_0") / "final_info.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"final_info\.json.*damaged"):
        read_run(tmp_path / "run_0")


def test_a_damaged_line_of_the_metrics_is_named_by_number(tmp_path):
    folder = write_run(tmp_path / "run_0")
    write_training(folder, ["topk"], steps=2)
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"sae": "to')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 3: damaged"):
        read_run(folder).training()


def test_a_newer_schema_is_refused_and_unknown_keys_are_not(tmp_path):
    assert read_run(write_run(tmp_path / "a", {"topk": sae(novel={"x": 1})}, later=[1])).info.as_json()["later"] == [1]
    with pytest.raises(UserError, match="newer ChronoSAE"):
        read_run(write_run(tmp_path / "b", schema=2))


def test_what_is_not_a_finite_number_is_no_metric(tmp_path):
    odd = {"mse": None, "l0": float("nan"), "cossim": float("inf"), "frac_alive": "0.9", "kl_div_score": True}
    metrics = read_run(write_run(tmp_path / "run_0", {"topk": sae(core=odd)})).saes[0].metrics
    assert not set(odd) & set(metrics)
    assert metrics["explained_variance"] == 0.9


def test_a_run_without_metrics_is_read(tmp_path):
    run = read_run(write_run(tmp_path / "run_0", {"topk": sae(metrics={}), "bare": {}}))
    assert run.saes[0].metrics == {} and run.saes[1].site == "-" and run.saes[1].target is None
    assert run.training() == {} and run.details("topk") is None


def test_evaluation_files_give_curve_and_densities_without_the_marks_of_the_undefined(tmp_path):
    folder = write_run(tmp_path / "run_0")
    write_evaluation(folder, "topk", [0.5, 0.0, -1], {4: 0.5, 1: 0.2})
    details = read_run(folder).details("topk")
    assert details is not None
    assert details.densities == (0.5, 0.0)
    assert list(details.pca_curve.items()) == [(1, 0.2), (4, 0.5)]
    assert details.intervals == {"explained_variance": (0.898, 0.902)}
    write(folder / "evals" / "core" / "topk_eval_results.json", [])
    with pytest.raises(UserError, match="topk_eval_results"):
        read_run(folder).details("topk")


def test_neither_torch_nor_matplotlib_is_loaded_to_compare(tmp_path):
    write_run(tmp_path / "run_0", {"topk": sae(), "topk@2": sae("topk@2", 1)})
    program = (
        "import sys, json\n"
        "from chronosae.report import comparison, print_table, read_runs, write_notes\n"
        "print_table(comparison(read_runs([sys.argv[1]])))\n"
        "write_notes(sys.argv[1] + '/run_0')\n"
        "print(json.dumps([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
