"""`chronosae list`: what architectures there are and what they can be told."""

import json
import subprocess
import sys

import pytest

from chronosae.autoencoders import PRESETS, build
from chronosae.cli import main


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["list", *arguments]) == 0
    return capsys.readouterr().out


def test_every_preset_is_listed_with_what_a_reader_needs_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(listed(capsys, "--json"))
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


def test_help_needs_no_torch() -> None:
    code = "import sys, chronosae.cli; chronosae.cli.main(['list', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
