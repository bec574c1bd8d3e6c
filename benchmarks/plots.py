"""Figures of benchmarks, from their results files.

python benchmarks/plots.py    draws docs/figures/scaling.png and docs/figures/roofline.png
"""

import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from chronosae.report.style import GREY, STYLE, color

ROOT = Path(__file__).parents[1]
AXES = {
    "d_sae": "features (d_sae)",
    "k": "active features at a token (k)",
    "tokens": "tokens in a batch",
    "context": "tokens in a sequence",
}
LINES = {"step": "sparse step", "dense": "plain torch"}


def main() -> None:
    """Command line."""
    for name, draw in (("scaling", scaling_figure), ("roofline", roofline_figure)):
        result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        draw(result, ROOT / "docs" / "figures" / f"{name}.png")


def scaling_figure(result: dict[str, Any], path: Path) -> None:
    """A small multiple for each quantity that grows: time of a step in encoder products, both axes logarithmic."""
    curves = result["curves"]
    with rc_context(STYLE):
        figure = Figure(figsize=(3 * len(curves), 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, (name, points) in zip(all_axes, curves.items(), strict=True):
            for index, (line, label) in enumerate(LINES.items()):
                known = [(p[name], p["ratio"][line], p["spread"][line]) for p in points if line in p["ratio"]]
                _line(axes, known, color(index), label if axes is all_axes[0] else None)
            _log_axes(axes, [p[name] for p in points])
            axes.set_title({"topk": "TopK"}.get(result["presets"][name], result["presets"][name]))
            axes.set_xlabel(AXES[name])
        all_axes[0].set_ylabel("step time / encoder product")
        highest = max(high for points in curves.values() for p in points for _, high in p["spread"].values())
        all_axes[0].set_ylim(0.8, 1.3 * highest)
        first, where = all_axes[0], all_axes[0].get_yaxis_transform()
        first.text(0.03, 1.04, "the product alone", transform=where, color=GREY, fontsize=8, va="bottom")
        figure.savefig(path)


def _line(axes: Axes, known: list[tuple[float, float, list[float]]], shade: str, label: str | None) -> None:
    x, y, around = (list(column) for column in zip(*known, strict=True))
    axes.fill_between(x, [low for low, _ in around], [high for _, high in around], color=shade, alpha=0.15, linewidth=0)
    axes.plot(x, y, color=shade, marker="o", markersize=3.5)
    if label is not None:
        top = max(high for _, high in around[:3])
        axes.annotate(
            label, (x[0], top), xytext=(0, 4), textcoords="offset points", color=shade, fontsize=8.5, weight="bold"
        )


def _log_axes(axes: Axes, values: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.axhline(1, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 4, 8, 16, 32, 64]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    return f"{value / 1024:.0f}k" if value >= 1024 else f"{value:.0f}"


def roofline_figure(result: dict[str, Any], path: Path) -> None:
    """A bar for each part of a step: the time it takes, and in grey what it can't do without."""
    parts = result["parts"]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.42 * len(parts) + 1.1), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        places = range(len(parts))
        times = [1e3 * part["seconds"] for part in parts]
        floors = [1e3 * (part["floor_seconds"] or 0) for part in parts]
        axes.barh(places, times, color=color(0), height=0.62)
        axes.barh(places, floors, color="#9dc6e0", height=0.28)
        for place, part, time, floor in zip(places, parts, times, floors, strict=True):
            beside = f"{part['over_floor']:.1f} x its floor" if part["over_floor"] else "no floor"
            text, end = f"{time:.0f} ms, {beside}", max(time, floor)
            axes.annotate(text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(places, [part["part"] for part in parts])
        axes.invert_yaxis()
        axes.set_xlim(0, max(times) * 1.35)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("milliseconds of one thread; the light bar is the floor")
        figure.savefig(path)


if __name__ == "__main__":
    main()
