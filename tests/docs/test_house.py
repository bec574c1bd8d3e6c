"""What the page about the code's layout says is so, and the house keeps its size."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "chronosae"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", PAGE))
    assert len(named) > 20
    assert [name for name in named if not any((home / name).is_file() for home in (PACKAGE, ROOT))] == []


def test_every_room_is_under_the_contract_and_there_is_no_other() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["chronosae"])
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {layer for layer in layers if not layer.startswith("(")} | {
        layer.strip("()") for layer in layers if (PACKAGE / layer.strip("()")).is_dir()
    }


def test_files_are_neither_many_nor_long() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(sizes) <= 230
    assert {path.name: size for path, size in sizes.items() if size > 450} == {}


@pytest.mark.parametrize(("what", "most"), [("step", 20), ("run", 130)])
def test_a_step_and_a_run_walk_through_few_files(what: str, most: int) -> None:
    command = [sys.executable, str(ROOT / "tools" / "touched_files.py"), what]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (files,) = re.findall(rf"{what}: (\d+) files", told)
    assert int(files) <= most
    assert str(most) in PAGE


def test_links_of_the_contributors_page_lead_somewhere() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links and all((ROOT / link).exists() for link in links)
