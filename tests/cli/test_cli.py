"""The commands beside `run`."""

from pathlib import Path

import pytest

from chronosae import __version__
from chronosae.cli import main
from chronosae.cli.main import _file_name


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


@pytest.mark.parametrize(
    ("name", "folder"),
    [("gpt2-small", "gpt2-small"), ("../../etc", "etc"), ("my run: 3/4", "my-run-3-4"), ("...", "run")],
)
def test_a_run_without_out_dir_goes_to_runs_by_its_name_and_never_elsewhere(name: str, folder: str) -> None:
    assert _file_name(name) == folder


def test_a_hub_model_offline_is_one_line_that_names_the_flag_for_a_local_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Path(__file__).parents[2] / "configs" / "gpt2-small.yaml"
    assert main(["run", str(config)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--set subject.model=PATH" in error
    assert list(tmp_path.iterdir()) == []
