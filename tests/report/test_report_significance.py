"""Differences to a baseline: paired by seed, tested, corrected for how many are looked at."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from run_folders import sae, write_run
from scipy import stats

from chronosae import report
from chronosae.config import Section, UserError
from chronosae.config.registry import REGISTRIES, Registry
from chronosae.evals import EVALUATIONS
from chronosae.report.statistics import HEADLINES, Difference, estimate, holm


def runs(folder: Path, better: list[float], base: list[float] | None = None) -> list:
    base = [0.80, 0.82, 0.81, 0.79] if base is None else base
    saes = {}
    for name, values in (("topk", base), ("chrono", better)):
        for i, value in enumerate(values):
            key = name if i == 0 else f"{name}@{i + 1}"
            metrics = {"core": {"explained_variance": value, "l0": 32.0}, "unlearning": {"unlearning_score": value / 2}}
            saes[key] = sae(name, seed=i, preset=name, metrics=metrics)
    return report.read_runs([write_run(folder, saes)])


def found(compared: report.Comparison, name: str, metric: str) -> Difference:
    return next(row for row in compared.rows if row.sae == name).differences[metric]


def test_a_difference_is_tested_in_pairs_of_seeds(tmp_path: Path) -> None:
    better = [0.83, 0.86, 0.83, 0.815]
    one = found(report.comparison(runs(tmp_path / "run", better)), "chrono", "explained_variance")
    raw = stats.ttest_rel(better, [0.80, 0.82, 0.81, 0.79]).pvalue
    assert one.found.mean == pytest.approx(np.mean(better) - 0.805)
    assert one.p == pytest.approx(2 * raw)  # two metrics are tested, and both have this p
    assert one.significant is True and one.baseline == "topk"


def test_the_table_marks_what_may_be_chance_and_shows_every_evaluation(tmp_path: Path) -> None:
    compared = report.comparison(runs(tmp_path / "run", [0.83, 0.80, 0.80, 0.80]))
    console = Console(width=140, record=True)
    report.print_table(compared, console)
    text = console.export_text()
    assert "≈" in text and "unlearning" in text and "no significant difference to topk" in text


def test_one_seed_is_never_called_significant_or_not(tmp_path: Path) -> None:
    compared = report.comparison(runs(tmp_path / "run", [0.9], [0.8]))
    assert found(compared, "chrono", "explained_variance").significant is None
    assert not any("≈" in note for note in compared.notes)


def test_two_seeds_are_no_test_even_where_both_differ_alike(tmp_path: Path) -> None:
    compared = report.comparison(runs(tmp_path / "run", [0.75, 0.875], [0.5, 0.625]))
    one = found(compared, "chrono", "explained_variance")
    assert one.found.values == (0.25, 0.25) and one.p is None and one.significant is None


@pytest.mark.parametrize(("n", "exploratory"), [(1, False), (2, True), (4, True), (5, False)])
def test_differences_over_fewer_than_five_seeds_are_called_exploratory(
    tmp_path: Path, n: int, exploratory: bool
) -> None:
    """One seed has a note of its own."""
    base, better = [0.80, 0.82, 0.81, 0.79, 0.80], [0.83, 0.86, 0.83, 0.815, 0.84]
    compared = report.comparison(runs(tmp_path / "run", better[:n], base[:n]))
    assert any("pairs of seeds are exploratory" in note for note in compared.notes) is exploratory
    assert any("n=1" in note and "exploratory" in note for note in compared.notes) is (n == 1)


def test_the_baseline_can_be_named_and_must_exist(tmp_path: Path) -> None:
    read = runs(tmp_path / "run", [0.83, 0.86, 0.83, 0.815])
    compared = report.comparison(read, "chrono")
    assert found(compared, "topk", "explained_variance").found.mean < 0
    assert not next(row for row in compared.rows if row.sae == "chrono").differences
    with pytest.raises(UserError, match="--baseline nope: the runs have topk, chrono"):
        report.comparison(read, "nope")


def test_json_tells_every_difference_and_every_metric(tmp_path: Path) -> None:
    data = json.loads(report.to_json(report.comparison(runs(tmp_path / "run", [0.83, 0.86, 0.83, 0.815]))))
    row = next(row for row in data["rows"] if row["sae"] == "chrono")
    assert set(row["differences"]) == {"explained_variance", "unlearning.unlearning_score"}
    assert row["metrics"]["unlearning.unlearning_score"]["n"] == 4


@given(st.lists(st.one_of(st.none(), st.floats(1e-9, 1)), min_size=1, max_size=8))
def test_holm_equals_its_definition(ps: list[float | None]) -> None:
    nothing = estimate([0.0])
    assert nothing is not None
    corrected = [one.p for one in holm([Difference("m", "b", nothing, p) for p in ps])]
    tested = sorted(p for p in ps if p is not None)
    for p, after in zip(ps, corrected, strict=True):
        if p is None:
            assert after is None
            continue
        rank = max(i for i, q in enumerate(tested) if q == p)
        expected = max(min(1.0, q * (len(tested) - i)) for i, q in enumerate(tested[: rank + 1]))
        assert after is not None and after <= expected + 1e-12 and after >= p


def test_equal_values_on_every_seed_are_no_difference(tmp_path: Path) -> None:
    one = found(report.comparison(runs(tmp_path / "run", [0.80, 0.82, 0.81, 0.79])), "chrono", "explained_variance")
    assert one.p == 1.0 and one.significant is False


def test_an_evaluation_from_outside_is_shown_and_tested_by_the_headline_that_it_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"core": {"explained_variance": 0.9, "l0": 32.0}, "mine": {"score": 0.5}}
    folder = write_run(
        tmp_path / "run", {name: sae(name, preset="topk", metrics=metrics) for name in ("topk", "other")}
    )
    unknown = report.comparison(report.read_runs([folder])).rows[1]
    assert unknown.metrics["mine.score"] is not None and set(unknown.differences) == {"explained_variance"}
    monkeypatch.setitem(REGISTRIES, "evaluation", REGISTRIES.get("evaluation", Registry("unused")))

    @Registry("evaluation").add
    class Mine(Section):
        name: ClassVar[str] = "mine"
        headline: ClassVar[dict[str, str]] = {"score": "my score"}

    compared = report.comparison(report.read_runs([folder]))
    assert set(compared.rows[1].differences) == {"explained_variance", "mine.score"}
    console = Console(width=140, record=True)
    report.print_table(compared, console)
    assert "my score" in console.export_text()


def test_headlines_are_those_that_the_evaluations_declare() -> None:
    own = {name: part for name, part in EVALUATIONS.kinds.items() if part.__module__.startswith("chronosae.")}
    declared = {
        metric if name == "core" else f"{name}.{metric}": title
        for name, part in own.items()
        for metric, title in part.headline.items()
    }
    assert dict(HEADLINES) == declared
    assert all(part.headline for part in own.values())
