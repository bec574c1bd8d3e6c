"""The tables of the performance pages are what benchmarks/pages.py makes of the results files."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def pages() -> Any:
    return runpy.run_path(str(ROOT / "benchmarks" / "pages.py"))["pages"]


def test_the_pages_hold_what_the_results_files_hold(pages: Any) -> None:
    for name, text in pages(result).items():
        assert text == (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"), f"python benchmarks/pages.py: {name}"


def test_another_result_changes_the_page_in_the_table_and_in_the_row_of_promises(pages: Any) -> None:
    def other(name: str) -> dict[str, Any]:
        found = result(name)
        if name == "train_step":
            found["cases"]["large"]["ratio"]["sparsify"] = found["ratio"]["sparsify"] = 98.76
        return found

    old, new = pages(result)["performance"].splitlines(), pages(other)["performance"].splitlines()
    changed = [line for line, before in zip(new, old, strict=True) if line != before]
    assert len(changed) == 2 and all("98.76" in line for line in changed)
