"""Tables of docs/roofline.md, from the results files.

python benchmarks/tables.py    writes them into the page, each after the comment that names it
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "roofline.md"
AXES = {"d_sae": "TopK, d_sae", "k": "TopK, k", "tokens": "TopK, tokens in a batch", "context": "chrono, context"}


def main() -> None:
    """Command line."""
    page = PAGE.read_text(encoding="utf-8")
    for name, lines in tables().items():
        table = f"<!-- {name} -->\n\n" + "\n".join(lines) + "\n\n<!-- end -->"
        page = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, table=table: table, page, flags=re.S)
    PAGE.write_text(page, encoding="utf-8")


def tables() -> dict[str, list[str]]:
    """Lines of Markdown, by the table's name."""
    return {"parts": _parts(_result("roofline")), "scaling": _scaling(_result("scaling"))}


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
