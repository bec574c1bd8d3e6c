"""The comparison: what is averaged, what is matched, and that nothing undefined becomes a number."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from run_folders import sae, write_intervals, write_run
from scipy import stats

from chronosae.report import comparison, print_table, read_run, read_runs, to_csv, to_json
from chronosae.report.statistics import estimate, l0_groups, l0_matched

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(finite, min_size=2, max_size=9))
def test_the_interval_is_scipys_t_interval_of_the_mean(values):
    found = estimate(values)
    assert found is not None and found.low is not None and found.high is not None
    error = stats.sem(values)
    low, high = (
        stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error) if error else (found.mean,) * 2
    )
    assert math.isclose(found.low, low, rel_tol=1e-7, abs_tol=1e-6)
    assert math.isclose(found.high, high, rel_tol=1e-7, abs_tol=1e-6)


def test_one_value_has_no_interval_and_none_has_no_mean():
    found = estimate([None, 0.5])
    assert found is not None and (found.mean, found.low, found.high, found.n) == (0.5, None, None, 1)
    assert estimate([None, None]) is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e4)), max_size=12))
def test_rows_that_share_a_letter_are_matched_pairwise(values):
    letters = l0_groups(values)
    assert [letter is None for letter in letters] == [value is None for value in values]
    for a, first in zip(values, letters, strict=True):
        for b, second in zip(values, letters, strict=True):
            if a is not None and b is not None and first == second:
                assert l0_matched(a, b)


def three_seeds(folder, values):
    names = ["topk", "topk@2", "topk@3"]
    entries = {n: sae(n, i, core={"explained_variance": v}) for i, (n, v) in enumerate(zip(names, values, strict=True))}
    return write_run(folder, entries)


def test_repeats_over_seeds_are_one_row_with_mean_and_interval(tmp_path):
    (row,) = comparison([read_run(three_seeds(tmp_path / "run_0", [0.9, 0.92, 0.94]))]).rows
    found = row.metrics["explained_variance"]
    assert found is not None and row.n == 3 and row.seeds == (0, 1, 2)
    # t_{0.975, 2} = 4.302653, s = 0.02
    assert (found.mean, found.half_width) == (pytest.approx(0.92), pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-6))


def test_a_metric_undefined_for_one_seed_is_averaged_over_the_others_and_says_so(tmp_path):
    compared = comparison([read_run(three_seeds(tmp_path / "run_0", [0.9, None, 0.94]))])
    found = compared.rows[0].metrics["explained_variance"]
    assert found is not None and found.n == 2
    assert "(n=2)" in shown(compared, 200)


def test_rows_keep_the_order_given(tmp_path):
    a = write_run(tmp_path / "b", {"topk": sae(), "relu_l1": sae("relu_l1")})
    b = write_run(tmp_path / "a", {"relu_l1": sae("relu_l1")})
    assert [(r.run, r.sae) for r in comparison(read_runs([a, b])).rows] == [
        ("b", "topk"),
        ("b", "relu_l1"),
        ("a", "relu_l1"),
    ]


@pytest.mark.parametrize(("l0", "matched"), [(33.6, True), (33.61, False)])
def test_l0_counts_as_matched_up_to_five_percent(tmp_path, l0, matched):
    compared = comparison([read_run(write_run(tmp_path / "r", {"topk": sae(), "x": sae("x", core={"l0": l0})}))])
    assert [row.l0_matched for row in compared.rows] == [matched, matched]
    assert any("not matched" in note for note in compared.notes) is not matched


def test_a_lone_row_is_neither_matched_nor_unmatched_nor_are_other_sites_and_subjects(tmp_path):
    a = write_run(tmp_path / "a", {"topk": sae(), "y": sae("y", site="blocks.1.hook_resid_post")})
    b = write_run(tmp_path / "b", subject={"fingerprint": "0" * 64})
    compared = comparison(read_runs([a, b]))
    assert [row.l0_matched for row in compared.rows] == [None, None, None]
    assert any("different subjects" in note for note in compared.notes)


def test_flags_of_some_seeds_say_how_many(tmp_path):
    entries = {"topk": sae(flags=["never_fires"]), "topk@2": sae("topk@2", 1)}
    (row,) = comparison([read_run(write_run(tmp_path / "r", entries))]).rows
    assert row.flags == ("never_fires (1 of 2 seeds)",)


def odd_runs(tmp_path):
    a = three_seeds(tmp_path / "a", [0.9, 0.91, None])
    b = write_run(
        tmp_path / "b", {"topk": sae(core={"mse": float("nan"), "ce_loss_score": None}, flags=["never_fires"])}
    )
    c = write_run(tmp_path / "c", {"bare": sae("bare", metrics={}, final_loss=None)})
    return comparison(read_runs([a, b, c]))


def test_json_holds_no_nan_and_null_for_the_undefined(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    rows = json.loads(to_json(odd_runs(tmp_path)), parse_constant=refuse)["rows"]
    assert rows[1]["metrics"]["mse"] is None and rows[1]["metrics"]["ce_loss_score"] is None
    assert rows[2]["metrics"]["l0"] is None and rows[2]["metrics"]["final_loss"] is None
    assert rows[1]["metrics"]["l0"] == {"mean": 32.0, "low": None, "high": None, "n": 1, "values": [32.0]}


def test_csv_reads_back_to_the_same_numbers(tmp_path):
    compared = odd_runs(tmp_path)
    lines = list(csv.DictReader(io.StringIO(to_csv(compared))))
    assert len(lines) == len(compared.rows)
    for line, row in zip(lines, compared.rows, strict=True):
        assert line["run"] == row.run and line["flags"] == "; ".join(row.flags)
        for name, found in row.metrics.items():
            expected = (None, None, None) if found is None else (found.mean, found.low, found.high)
            read = tuple(float(t) if (t := line[name + end]) else None for end in ("", "_low", "_high"))
            assert read == expected


def shown(compared, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_table(compared, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_fits_and_keeps_what_matters(tmp_path, width):
    text = shown(odd_runs(tmp_path), width)
    assert max(map(len, text.splitlines())) <= width
    for needed in ("SAE", "L0", "FVE", "topk", "bare", "0.905", "32.0"):
        assert needed in text
    assert "nan" not in text.lower().replace("non", "") and "None" not in text


def test_undefined_metrics_are_dashes(tmp_path):
    text = shown(
        comparison([read_run(write_run(tmp_path / "r", {"bare": sae("bare", metrics={}, final_loss=None)}))]), 200
    )
    line = next(line for line in text.splitlines() if line.startswith("bare"))
    assert line.split() == ["bare", "→32", *["-"] * 10]


def test_one_seed_is_labelled_and_shows_no_interval(tmp_path):
    text = shown(comparison([read_run(write_run(tmp_path / "r"))]), 200)
    assert "n 1" in text and "n=1: one seed" in text and "±" not in text


def test_with_one_seed_intervals_over_examples_stand_below_the_table_and_in_the_json(tmp_path):
    folder = write_run(
        tmp_path / "r", {"topk": sae(), "two": sae("two"), "two@2": sae("two@2", 1), "bare": sae("bare")}
    )
    for name in ("topk", "two"):
        write_intervals(folder, "core", name, explained_variance=(0.898, 0.902), mse=(0.01, 0.02))
        write_intervals(folder, "unlearning", name, unlearning_score=(0.1, 0.4))
    compared = comparison([read_run(folder)])
    told = [note for note in compared.notes if "over examples" in note]
    assert told == ["topk: 95% intervals over examples, not over seeds: FVE 0.898 to 0.902, unlearning 0.100 to 0.400."]
    assert told[0] in shown(compared, 200) and "±" in shown(compared, 200)  # of the row with two seeds
    rows = {row["sae"]: row for row in json.loads(to_json(compared))["rows"]}
    assert rows["topk"]["over_examples"] == {
        "explained_variance": {"low": 0.898, "high": 0.902},
        "mse": {"low": 0.01, "high": 0.02},
        "unlearning.unlearning_score": {"low": 0.1, "high": 0.4},
    }
    assert rows["two"]["over_examples"] == {} == rows["bare"]["over_examples"]
    assert rows["topk"]["metrics"]["explained_variance"]["low"] is None


def test_markup_and_control_characters_in_names_are_shown_not_obeyed(tmp_path):
    entries = {"[red]x[/red]\x1b[2J": sae(), "other": sae()}
    text = shown(comparison([read_run(write_run(tmp_path / "r", entries))]), 200)
    assert "[red]x[/red]" in text and "\x1b" not in text
