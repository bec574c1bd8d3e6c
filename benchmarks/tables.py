"""Tables of docs/roofline.md and docs/performance.md, from the results files.

python benchmarks/tables.py    writes them into the pages, each after the comment that names it
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from performance_tables import measured, performance_tables

ROOT = Path(__file__).parents[1]
AXES = {"d_sae": "TopK, d_sae", "k": "TopK, k", "tokens": "TopK, tokens in a batch", "context": "chrono, context"}


def main() -> None:
    """Command line."""
    for name, text in pages(_result).items():
        (ROOT / "docs" / f"{name}.md").write_text(text, encoding="utf-8")


def pages(read: Callable[[str], dict[str, Any]]) -> dict[str, str]:
    """The pages as they should be, by name; `read` gives a benchmark's result."""
    old = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("roofline", "performance")}
    roofline = {"parts": _parts(read("roofline")), "scaling": _scaling(read("scaling"))}
    performance = filled(old["performance"], performance_tables(read))
    for name, cell in measured(read).items():
        row = rf"(?m)^(\| .*`python benchmarks/{name}\.py --json`.*\| )[^|]+ \|$"
        performance, found = re.subn(row, lambda at, cell=cell: f"{at[1]}{cell} |", performance)
        assert found == 1, f"{found} rows for the benchmark {name}"
    return {"roofline": filled(old["roofline"], roofline), "performance": performance}


def filled(page: str, tables: dict[str, list[str]]) -> str:
    """The page with each table between the comment that names it and the next that ends one."""
    for name, lines in tables.items():
        table = f"<!-- {name} -->\n\n" + "\n".join(lines) + "\n\n<!-- end -->"
        page, found = re.subn(rf"<!-- {name} -->.*?<!-- end -->", lambda _, table=table: table, page, flags=re.S)
        assert found == 1, f"{found} places for the table {name}"
    return page


def _result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _parts(result: dict[str, Any]) -> list[str]:
    lines = ["| part | ms | floor, ms | time / floor | set by |", "|---|--:|--:|--:|---|"]
    for part in result["parts"]:
        floor = part["floor_seconds"]
        cells = ["-", "-", "-"] if floor is None else [_ms(floor), f"{part['over_floor']:.1f}", part["limit"]]
        lines.append(f"| {part['part']} | {_ms(part['seconds'])} | {' | '.join(cells)} |")
    whole, floors = result["seconds"]["step"], result["floor_seconds"]
    lines.append(f"| **whole step** | {_ms(whole)} | {_ms(floors)} | {whole / floors:.1f} | |")
    product = result["ratio"]
    lines.append(f"| **in encoder products** | {product['step']:.2f} | {product['floors']:.2f} | | |")
    return lines


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _scaling(result: dict[str, Any]) -> list[str]:
    lines = ["| | | step / product | plain torch / product | plain torch / step |", "|---|--:|--:|--:|--:|"]
    for axis, points in result["curves"].items():
        for point in points:
            low, high = point["spread"]["step"]
            step, dense = point["ratio"]["step"], point["ratio"].get("dense")
            beside = ["-", "-"] if dense is None else [f"{dense:.1f}", f"{dense / step:.1f}"]
            shown = f"{step:.2f} ({low:.1f} to {high:.1f})"
            lines.append(f"| {AXES[axis]} | {point[axis]:,d} | {shown} | {' | '.join(beside)} |")
    return lines


if __name__ == "__main__":
    main()
