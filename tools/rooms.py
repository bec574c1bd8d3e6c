"""Draws docs/figures/rooms.png: the rooms of the package as import-linter keeps them, one above the other.

    python tools/rooms.py

Order from pyproject.toml, what lives there from each room's docstring, sizes from its files.
"""

import ast
import textwrap
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "chronosae"
GROUPS = {
    "Talks to people": ("#dce6f2", ("cli", "pipeline", "report")),
    "Worlds with known truth": ("#e7e0f0", ("world", "planted")),
    "Measures and edits": ("#fbe6d4", ("evals", "interventions", "analysis")),
    "Learns": ("#f8dede", ("training", "presets", "objectives", "autoencoders")),
    "Reads": ("#dff0e3", ("activations", "subject", "corpora")),
    "Ground": ("#eeeeee", ("kernels", "config")),
}


def rooms() -> list[str]:
    """Names from the top down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c.get("containers") == ["chronosae"])
    return [name for layer in layers if (PACKAGE / (name := layer.strip("()"))).is_dir()]


def about(room: str) -> tuple[str, str]:
    """The first sentence of its docstring, and its size."""
    files = list((PACKAGE / room).rglob("*.py"))
    doc = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    lines = sum(len(file.read_text().splitlines()) for file in files)
    return " ".join(doc.split("\n\n")[0].split()), f"{len(files)} files, {lines:,} lines"


def main() -> None:
    """Draw."""
    names = rooms()
    figure, axes = plt.subplots(figsize=(10, 0.56 * len(names) + 0.6))
    colour = {room: shade for shade, members in GROUPS.values() for room in members}
    for row, room in enumerate(names):
        y = len(names) - row
        axes.add_patch(plt.Rectangle((0.9, y - 0.45), 9.1, 0.86, facecolor=colour[room], edgecolor="white"))
        said, size = about(room)
        axes.text(1.0, y, room, weight="bold", va="center", size=10)
        axes.text(2.75, y, textwrap.fill(said.replace("`", ""), 80), va="center", size=8, linespacing=1.25)
        axes.text(9.9, y, size.replace(", ", "\n"), va="center", ha="right", size=7, color="#666666")
    for group, (_, members) in GROUPS.items():
        places = [len(names) - names.index(room) for room in members]
        axes.text(0.78, sum(places) / len(places), textwrap.fill(group, 11), ha="right", va="center", size=8.5)
    axes.annotate(
        "", xy=(-0.35, 0.7), xytext=(-0.35, len(names) + 0.3), arrowprops={"arrowstyle": "->", "color": "#666666"}
    )
    axes.text(
        -0.5, len(names) / 2, "imports only downwards", rotation=90, ha="right", va="center", size=8.5, color="#666666"
    )
    axes.set_xlim(-0.8, 10.05)
    axes.set_ylim(0.4, len(names) + 0.6)
    axes.axis("off")
    figure.savefig(ROOT / "docs" / "figures" / "rooms.png", dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
