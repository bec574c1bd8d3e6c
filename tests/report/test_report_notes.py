"""notes.md: the difference to the run before, the verdict by its rules, and text that stays text."""

import pytest
from run_folders import sae, write_interrupted, write_intervals, write_run, write_training

from chronosae.config import UserError
from chronosae.config.flags import CORE, MEANINGS, explain
from chronosae.report import previous_run, read_run, write_notes
from chronosae.report.notes import config_changes
from chronosae.report.verdict import verdict


def test_every_flag_of_the_evaluations_is_explained_in_the_same_words():
    assert CORE.items() <= MEANINGS.items()
    assert set(MEANINGS) - set(CORE) == {"target_l0_missed", "fewer_than_k_fire", "text_repeated"}
    assert explain("worse_than_pca") == f"worse_than_pca: {MEANINGS['worse_than_pca']}"
    assert explain("target_l0_missed: L0 40.00").endswith("(L0 40.00)")
    assert explain("something new") == "something new"


def test_the_difference_names_dotted_keys_with_old_and_new_values():
    old = {"training": {"lr": 0.001, "seeds": [0]}, "saes": {"topk": {"k": 32}}, "seed": 0}
    new = {"training": {"lr": 0.002, "seeds": [0]}, "saes": {"relu_l1": {}}, "seed": 0}
    assert config_changes(old, new) == {
        "training.lr": ("0.001", "0.002"),
        "saes.relu_l1": ("(absent)", "{}"),
        "saes.topk.k": ("32", "(absent)"),
    }


def test_the_run_before_is_the_latest_complete_one_that_started_earlier(tmp_path):
    for day, name in enumerate(("a", "b", "c", "d"), start=1):
        write_run(tmp_path / name, started=f"2025-01-0{day}T10:00:00+00:00")
    write_interrupted(tmp_path / "b2")
    (write_run(tmp_path / "b3", started="2025-01-02T12:00:00+00:00") / "final_info.json").write_text("{")
    assert previous_run(tmp_path / "c") == tmp_path / "b"
    assert previous_run(tmp_path / "a") is None


def test_notes_hold_all_that_a_write_up_needs(tmp_path):
    write_run(tmp_path / "run_0")
    entries = {"topk": sae(flags=["dead_features_over_10_percent"]), "relu_l1": sae("relu_l1", core={"l0": 33.1})}
    config = {"training": {"lr": 0.002, "seeds": [0]}}
    folder = write_run(tmp_path / "run_1", entries, started="2025-01-02T10:00:00+00:00", config=config)
    last = write_training(folder, ["topk", "relu_l1"])[-1]
    path = write_notes(folder)
    text = path.read_text()
    assert path == folder / "notes.md" and not list(folder.glob("*.tmp"))
    for needed in (
        "# run_1\n\nA run of the tests.",
        "2025-01-02T10:00:00+00:00",
        "Some CPU",
        "| `training.lr` | `0.001` | `0.002` |",
        "| `training.seeds` | `[0]` |",
        "0.9000",
        MEANINGS["dead_features_over_10_percent"],
        "One seed: differences are exploratory.",
        "chronosae run run_1/config.yaml",
        "c0ffee",
        f"| `relu_l1` | 0 | 488 | 999,424 | 21.5 | {last['l0']:.6g} | {last['dead']} | 0.001 | 0.4 |",
    ):
        assert needed in text
    assert "nan" not in text.lower()


def test_the_first_run_and_an_unchanged_one_say_so(tmp_path):
    first = write_run(tmp_path / "run_0", config={"name": "same"})
    assert "no complete run before" in write_notes(first).read_text()
    again = write_run(tmp_path / "run_1", config={"name": "same"}, started="2025-01-02T10:00:00+00:00")
    assert "`run_0` had the same configuration" in write_notes(again).read_text()


def test_text_from_the_configuration_cannot_break_tables_or_add_headings(tmp_path):
    evil = "a|b\n# heading <script> `tick` [link](x)"
    folder = write_run(
        tmp_path / "run_0", {evil: sae(flags=[evil])}, name=evil, description=evil, config={"name": evil}
    )
    lines = write_notes(folder).read_text().splitlines()
    assert sum(line.startswith("# ") for line in lines) == 1
    assert not any(line.startswith("# heading") for line in lines)
    assert all("\\<script" in line or "`" in line for line in lines if "<script" in line)
    tables = [line for line in lines if line.startswith("|")]
    widths = [line.replace("\\|", "").count("|") for line in tables]
    headers = [i for i, line in enumerate(tables) if ":--" in line]
    for start, end in zip(headers, [*(h - 1 for h in headers[1:]), len(tables)], strict=True):
        assert len(set(widths[start - 1 : end])) == 1


def test_notes_of_an_incomplete_run_are_refused(tmp_path):
    with pytest.raises(UserError, match="isn't complete"):
        write_notes(write_interrupted(tmp_path / "run_0"))


def test_a_run_without_metrics_or_autoencoders_still_has_notes(tmp_path):
    assert "was not evaluated" in write_notes(write_run(tmp_path / "a", {"topk": sae(metrics={})})).read_text()
    assert "trained no autoencoder" in write_notes(write_run(tmp_path / "b", {})).read_text()


def sentences(tmp_path, saes):
    return verdict(read_run(write_run(tmp_path / "run_0", saes)))


def test_the_verdict_states_variance_sparsity_and_distance_to_pca(tmp_path):
    core = {"explained_variance": 0.912, "pca_explained_variance": 0.769, "l0": 31.5}
    first = sentences(tmp_path, {"topk": sae(core=core)})[0]
    assert "91.2 % of the variance with 31.5 active features (1.6% below the 32 asked for)" in first
    assert "14.3 points above as many principal components" in first


def test_unequal_l0_is_not_compared(tmp_path):
    found = sentences(tmp_path, {"topk": sae(), "relu_l1": sae("relu_l1", core={"l0": 40.0})})
    assert any("not comparable at equal L0" in s for s in found) and not any("points more" in s for s in found)


@pytest.mark.parametrize(("other", "clear"), [([0.88, 0.87, 0.89], True), ([0.95, 0.80, 0.90], False)])
def test_a_difference_over_seeds_is_paired_and_counts_when_its_interval_leaves_out_zero(tmp_path, other, clear):
    names = ("", "@2", "@3")
    ours = zip(names, [0.91, 0.90, 0.92], strict=True)
    saes = {f"topk{n}": sae(f"topk{n}", i, core={"explained_variance": v}) for i, (n, v) in enumerate(ours)}
    theirs = zip(names, other, strict=True)
    saes |= {f"relu_l1{n}": sae("relu_l1", i, core={"explained_variance": v}) for i, (n, v) in enumerate(theirs)}
    (pair,) = [s for s in sentences(tmp_path, saes) if "points more" in s]
    assert pair.startswith("At equal L0 within 5 %, `topk` explains")
    assert ("leaves out zero" in pair) is clear and ("no difference is shown" in pair) is not clear


@pytest.mark.parametrize(("n", "judged", "exploratory"), [(2, False, True), (3, True, True), (5, True, False)])
def test_the_verdict_judges_no_two_seeds_and_calls_fewer_than_five_exploratory(tmp_path, n, judged, exploratory):
    saes = {}
    for i in range(n):
        name = "" if i == 0 else f"@{i + 1}"
        saes[f"topk{name}"] = sae(f"topk{name}", i, core={"explained_variance": 0.75})
        saes[f"relu_l1{name}"] = sae("relu_l1", i, core={"explained_variance": 0.5})
    found = sentences(tmp_path, saes)
    (pair,) = [s for s in found if "points more" in s]
    assert ("leaves out zero" in pair) is judged and ("2 seeds: too few" in pair) is not judged
    assert ("Fewer than 5 seeds: differences are exploratory." in found) is exploratory


def test_an_autoencoder_that_stopped_or_never_fires_enters_no_comparison(tmp_path):
    stopped = sae("relu_l1", flags=["stopped at step 3, batch 3: the loss is not finite; a lower lr may help"])
    found = sentences(tmp_path, {"topk": sae(), "relu_l1": stopped, "mute": sae("mute", flags=["never_fires"])})
    assert any("`relu_l1` gives no usable result (stopped at step 3" in s for s in found)
    assert any("`mute` gives no usable result (never_fires" in s for s in found)
    assert not any("points more" in s for s in found)


def test_an_autoencoder_that_stopped_is_told_once_among_the_flags(tmp_path):
    stopped = "stopped at step 3, batch 3: the loss is not finite; a lower lr may help"
    for name, flags in (("run_0", []), ("run_1", [f"relu_l1: {stopped}", "text_repeated: 2.0 times"])):
        folder = write_run(tmp_path / name, {"topk": sae(), "relu_l1": sae("relu_l1", flags=[stopped])}, flags=flags)
        section = write_notes(folder).read_text().partition("## Flags")[2].partition("##")[0]
        assert section.count("stopped at step 3") == 1 and "`relu_l1`: stopped" in section
        assert ("text_repeated" in section) is bool(flags)


DAMAGES = {
    "no autoencoders": ("final_info.json", '{"started": "2025-01-02T10:00:00+00:00"}'),
    "an autoencoder that is none": ("final_info.json", '{"started": "2025-01-02T10:00:00+00:00", "saes": {"topk": 3}}'),
    "a newer schema": ("final_info.json", '{"started": "2025-01-02T10:00:00+00:00", "saes": {}, "schema": 2}'),
    "no start": ("final_info.json", '{"started": 3}'),
    "an integer too long": ("final_info.json", '{"started": ' + "9" * 5000 + "}"),
    "broken YAML": ("config.yaml", "training: [1, 2"),
    "an impossible date": ("config.yaml", "name: 2025-99-99"),
    "a list": ("config.yaml", "- 1"),
    "a mapping that holds itself": ("config.yaml", "a: &a\n  b: *a"),
    "no text": ("config.yaml", b"\xff\xfe"),
    "nothing": ("config.yaml", None),
}


@pytest.mark.parametrize(("file", "content"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_neighbour_is_passed_over_for_the_run_before_it(tmp_path, file, content):
    damaged = write_run(tmp_path / "run_1", started="2025-01-02T10:00:00+00:00")
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    folder = write_run(tmp_path / "run_2", started="2025-01-03T10:00:00+00:00")
    assert "no complete run before" in write_notes(folder).read_text()
    write_run(tmp_path / "run_0")
    assert previous_run(folder) == tmp_path / "run_0"
    assert "To `run_0`" in write_notes(folder).read_text()


def test_evaluations_beside_core_have_a_table_of_their_own(tmp_path):
    found = [sae(seed=s) for s in (0, 1)]
    for entry, value in zip(found, (0.25, 0.35), strict=True):
        entry["metrics"]["unlearning"] = {"unlearning_score": value}
    text = write_notes(write_run(tmp_path / "run", {"topk": found[0], "topk@2": found[1]})).read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| unlearning |"))
    assert "0.300" in row and "| evaluation | `topk` (n = 2) |" in text
    assert "## Evaluations" not in write_notes(write_run(tmp_path / "plain")).read_text()


def test_notes_of_one_seed_tell_the_intervals_over_examples(tmp_path):
    folder = write_run(tmp_path / "run_0")
    write_intervals(folder, "core", "topk", explained_variance=(0.898, 0.902))
    assert "over examples, not over seeds: FVE 0.898 to 0.902" in write_notes(folder).read_text()
