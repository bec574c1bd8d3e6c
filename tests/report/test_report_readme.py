"""Every figure in the README and the performance page comes out of a committed results file."""

import json
import re
from pathlib import Path

import pytest

from chronosae.config import load_config
from chronosae.report import comparison, read_runs, to_json
from chronosae.report.table import evaluations, metric_cell

ROOT = Path(__file__).parents[2]
RUNS = {"embedded model, its world": "demo", "stories260k, WikiText-2": "stories260k"}
COLUMNS = {"l0": 1, "explained_variance": 3, "pca_explained_variance": 3, "ce_loss_score": 3, "frac_alive": 3}


ARCHITECTURES = {text: f"architectures{'-stories260k' * ('stories' in text)}" for text in RUNS}
"""The same subjects and texts on the page about planted data, in other runs."""


def table_rows(page: str) -> list[list[str]]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] in RUNS]


@pytest.mark.parametrize(("page", "runs"), [("README.md", RUNS), ("docs/planted.md", ARCHITECTURES)])
def test_every_number_in_a_table_of_runs_is_the_results_files_number(page: str, runs: dict[str, str]) -> None:
    rows = json.loads(to_json(comparison(read_runs([ROOT / "results" / run for run in runs.values()]))))["rows"]
    expected = []
    for row in rows:
        shown = []
        for metric, digits in COLUMNS.items():
            m = row["metrics"][metric]
            shown.append(f"{m['mean']:.{digits}f} ±{(m['high'] - m['low']) / 2:.{digits}f}")
        text = next(text for text, run in runs.items() if run == row["run"])
        expected.append([text, f"`{row['sae']}`", str(row["d_sae"]), str(row["n"]), *shown])
    assert table_rows(page) == expected


def test_the_readme_tells_the_gain_on_planted_data_as_it_was_measured() -> None:
    claims = json.loads((ROOT / "results" / "planted" / "mechanisms.json").read_text())["claims"]["chrono"]
    gains = {claim["claim"]: sum(claim["values"]) / len(claim["values"]) for claim in claims}
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    fve, f1 = gains["chrono beats topk in fve"], gains["chrono beats topk in f1"]
    assert f"`chrono` gains {fve:.3f} in variance explained and {f1:.3f} in support F1" in text


def test_the_readme_tells_how_fast_a_step_and_a_run_are_as_it_was_measured() -> None:
    step, run = (
        json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["ratio"]
        for name in ("train_step", "whole_run")
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"takes sparsify {step['sparsify']:.1f} times as long" in text
    assert {f"{step[name]:.0f}" for name in ("saelens", "dictionary_learning")} == {"11"}
    assert "SAELens and dictionary_learning 11 times" in text
    assert f"takes SAELens {run['saelens']:.1f} times as long" in text


def test_the_page_of_evaluations_shows_what_the_results_file_says() -> None:
    compared = comparison(read_runs([ROOT / "results" / "evaluations"]))
    page = (ROOT / "docs" / "evaluations" / "README.md").read_text(encoding="utf-8")
    rows = [
        [title, *(metric_cell(name, ".3f")(row) for row in compared.rows)]
        for name, title in evaluations(compared.rows).items()
    ]
    assert len(rows) == 8 and all(f"| {' | '.join(row)} |" in page for row in rows)
    assert sum("≈" in row[-1] for row in rows) == 7  # and FVE and CE recovered, not in this table, make ten


@pytest.mark.parametrize("run", [*RUNS.values(), *ARCHITECTURES.values(), "evaluations"])
def test_a_results_folder_holds_the_configuration_that_made_it(run: str) -> None:
    folder = ROOT / "results" / run
    cfg = load_config(folder / "config.yaml")
    info = json.loads((folder / "final_info.json").read_text())
    assert info["seeds"]["saes"] == cfg.training.seeds
    assert {name.partition("@")[0] for name in info["saes"]} == set(cfg.saes)
    assert all(sae["training_steps"] == cfg.steps for sae in info["saes"].values())


@pytest.mark.parametrize("name", ["harvest", "trainer_overhead"])
def test_the_performance_page_shows_the_measured_ratios(name: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    row = next(
        line
        for line in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
        if f".py {name} --json" in line
    )
    assert f"{measured['ratio']:.3f}" in row and measured["ok"]


def test_the_performance_page_shows_what_sequence_aware_steps_cost() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "temporal_tax.json").read_text())
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if "steps.py temporal_tax --json" in line)
    shown = {"multiscale (input)": "input placement", "topk (sparse step)": "TopK itself by the sparse step"}
    for name, ratio in measured["ratio"].items():
        assert name == "topk" or f"{shown.get(name, name)} {ratio:.2f}" in row
    assert measured["ok"]


def test_the_performance_page_shows_how_fast_evaluations_are_beside_saebench() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "evaluations.json").read_text())
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if "benchmarks/evaluations.py" in line)
    shown = [f"{measured['ratio'][name]:.2f}" for name in ("core", "sparse_probing", "sparse_probing (our protocol)")]
    assert f"core {shown[0]}, sparse probing {shown[1]} by" in row and f"{shown[2]} by ours" in row and measured["ok"]


def test_the_performance_page_shows_a_training_step_beside_those_of_other_libraries() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "train_step.json").read_text())
    rows = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    for case in measured["cases"].values():
        shown = [f"{ratio:.2f} ({low:.1f} to {high:.1f})" for ratio, (low, high) in _with_spread(case)]
        assert any(all(cell in row for cell in shown) for row in rows) and case["ok"]
    assert any(f"{measured['ratio']['sparsify']:.2f}; see below" in row for row in rows)


def _with_spread(case: dict) -> list[tuple[float, list[float]]]:
    return [(ratio, case["spread"][name]) for name, ratio in case["ratio"].items()]


def test_the_performance_page_shows_harvest_whole_run_memory_and_what_sequences_cost() -> None:
    def of(name: str) -> dict:
        return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())

    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = {
        line.split(" --json`")[0].split()[-1].removeprefix("benchmarks/").removesuffix(".py"): line
        for line in page.splitlines()
        if "| `python bench" in line
    }
    harvest, run, memory = of("harvest_peers"), of("whole_run"), of("memory")["ratio"]
    ours = [harvest[name]["ratio"]["saelens"] for name in ("chronosae", "chronosae_bfloat16")]
    assert f"| {ours[0]:.2f}; {ours[1]:.2f} " in rows["harvest_peers"] and harvest["ok"]
    assert f"| {run['ratio']['saelens']:.2f} " in rows["whole_run"] and run["ok"]
    assert all(f"{ratio:.2f}" in rows["memory"] for ratio in memory.values())
    extra = of("temporal_extra")
    for name, ratio in extra["ratio"].items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} | {extra['bar'][name]}")]
        assert f"| {ratio:.2f} (" in row and ("missed" in row) == (ratio > extra["bar"][name])


def test_every_link_between_our_pages_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_example_works_as_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
    assert len(code.strip().splitlines()) <= 18
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    # The same code on fewer tokens: what it does is what is checked.
    fewer = 'training.tokens=4096", "evals.core.tokens=2048", "evals.core.behaviour_tokens=1024'
    exec(code.replace("training.tokens=65536", fewer), {})
    assert (tmp_path / "runs" / "api" / "saes" / "topk" / "sae_weights.safetensors").is_file()
