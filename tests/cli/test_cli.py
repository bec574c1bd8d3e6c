"""The commands beside `run`."""

from pathlib import Path

import pytest

from chronosae import __version__
from chronosae.cli import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_config_prints_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    assert "training.lr" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["compare", "plot"])
def test_a_folder_that_is_no_run_is_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_world_show_prints_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "show", "--count", "2"]) == 0
    assert capsys.readouterr().out.count("---") >= 4
