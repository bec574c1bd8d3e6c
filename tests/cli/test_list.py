"""`chronosae list`: everything that has a name, and what it can be told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chronosae.cli import main
from chronosae.presets import PRESETS, build


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["list", *arguments]) == 0
    return capsys.readouterr().out


def test_every_preset_is_listed_with_what_a_reader_needs_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(listed(capsys, "--json"))["preset"]
    assert [row["name"] for row in rows] == list(PRESETS)
    for row in rows:
        assert row["summary"] and row["paper"]
        assert set(row) == {"name", "summary", "paper", "causal", "receptive_field", "defaults"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_built_from_its_listed_defaults_is_as_listed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads(listed(capsys, name, "--json"))
    sae = build(name, d_in=8, **row["defaults"])
    assert (sae.causal, sae.receptive_field) == (row["causal"], row["receptive_field"])
    assert [option["key"] for option in row["options"] if not option["doc"]] == []
    assert {option["key"] for option in row["options"]} == set(row["defaults"])


def test_the_table_names_every_preset_whole(capsys: pytest.CaptureFixture[str]) -> None:
    words = listed(capsys).split()
    assert set(PRESETS) <= set(words)


def test_one_preset_shows_its_own_options_first_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    text = listed(capsys, "multiscale")
    assert "arXiv" not in text.splitlines()[0] and text.startswith("multiscale: ")
    assert text.index("placement") < text.index("d_sae") < text.index("extra_terms")
    assert "Dilations" in text


def test_an_unknown_preset_is_one_line_that_lists_the_legal_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "topkk"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'topkk'" in error and "batch_topk" in error


def test_every_sort_is_listed_with_a_line_on_each(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(listed(capsys, "--json"))
    names = {sort: [row["name"] for row in rows] for sort, rows in found.items()}
    for sort, name in {
        "activation": "jump_relu",
        "term": "auxk",
        "mixer": "conv",
        "norm": "layer",
        "tracker": "firing",
        "evaluation": "sparse_probing",
        "corpus": "world",
    }.items():
        assert name in names[sort]
    assert all(row["summary"] for rows in found.values() for row in rows)


def test_a_name_of_two_sorts_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert "chronosae list activation.topk" in listed(capsys, "topk")
    assert json.loads(listed(capsys, "activation.topk", "--json"))["sort"] == "activation"
    assert "evals" not in listed(capsys, "absorption").splitlines()[0]


PLUGIN = '''
from chronosae.corpora import CORPORA, Corpus

@CORPORA.add
class Countdown(Corpus):
    """Numbers, downwards."""
    name = "countdown"
    highest: int = 10

    def documents(self, start=0):
        return iter([str(n) for n in range(self.highest, 0, -1)][start:])
'''


def test_a_plugin_is_listed_with_its_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "countdown_corpus.py").write_text(PLUGIN)
    text = listed(capsys, "countdown", "--plugin", str(tmp_path / "countdown_corpus.py"))
    assert text.startswith("countdown (corpus): Numbers, downwards.") and "highest" in text
    assert main(["list", "--plugin", str(tmp_path / "absent.py")]) == 2
    assert "absent.py: no such file" in capsys.readouterr().err
    assert main(["list", "countup"]) == 2
    assert "--plugin FILE" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = "import sys, chronosae.cli; chronosae.cli.main(['list', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
