"""The roofline page shows what its results files hold."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "roofline.md").read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def cells() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_part_of_a_step_stands_on_the_page_with_its_time_and_floor() -> None:
    measured = result("roofline")
    for part in measured["parts"]:
        row = next(row for row in cells() if row[0] == part["part"])
        floor = "-" if part["floor_seconds"] is None else f"{1e3 * part['floor_seconds']:.1f}"
        assert row[1:3] == [f"{1e3 * part['seconds']:.1f}", floor]
    row = next(row for row in cells() if row[0] == "**in encoder products**")
    assert row[1:3] == [f"{measured['ratio'][name]:.2f}" for name in ("step", "floors")]


def test_parts_add_up_to_the_step() -> None:
    measured = result("roofline")
    total = sum(part["seconds"] for part in measured["parts"])
    assert abs(total / measured["seconds"]["step"] - 1) < 0.1  # medians of parts, and of the whole


def test_the_peak_and_the_copy_that_floors_are_made_of_stand_on_the_page() -> None:
    measured = result("roofline")
    text = " ".join(PAGE.split())
    assert f"{measured['peak_teraflops']:.2f} TFLOP/s" in text and f"{measured['copy_gb_per_s']:.1f} GB/s" in text
    assert measured["date"] in text and result("scaling")["date"] in text


def test_every_point_of_the_scaling_curves_stands_on_the_page() -> None:
    measured = result("scaling")
    shown = [row for row in cells() if re.fullmatch(r"[\d,]+", row[1])]
    points = [(axis, point) for axis, found in measured["curves"].items() for point in found]
    assert len(shown) == len(points)
    for row, (axis, point) in zip(shown, points, strict=True):
        assert row[0].startswith("chrono" if measured["presets"][axis] == "chrono" else "TopK")
        assert row[1] == f"{point[axis]:,d}" and row[2].startswith(f"{point['ratio']['step']:.2f} (")
        dense = point["ratio"].get("dense")
        assert row[3] == ("-" if dense is None else f"{dense:.1f}")
