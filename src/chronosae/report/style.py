"""How figures look: one palette, thin axes, labels beside what they name, one colour for an autoencoder of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chronosae.config.run_folder import SAEResult
from chronosae.report.runs import Run

# Okabe and Ito (2008), told apart with every common colour blindness; yellow is left out, too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
DPI = 200

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "savefig.dpi": DPI,
    "svg.fonttype": "none",
    # the same data give the same file
    "svg.hashsalt": "chronosae",
}


def color(index: int) -> str:
    """Colour of the series at `index`."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Marker of the series at `index`: changes when the colours have been used up."""
    return MARKERS[index // len(PALETTE) % len(MARKERS)]


def clip(text: str, length: int) -> str:
    """A label short enough for a figure, cut in its middle; `$` would start mathematics."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) > length:
        text = text[: length // 2] + "…" + text[len(text) - (length - length // 2 - 1) :]
    return text.replace("$", r"\$")


@dataclass(frozen=True)
class Series:
    """The repeats over seeds of one autoencoder, and how they look in every figure."""

    run: Run
    saes: tuple[SAEResult, ...]
    label: str
    color: str
    marker: str


def series_of(runs: Sequence[Run]) -> list[Series]:
    """One series for each row of the comparison, in its order."""
    found = [(run, base, members) for run in runs for base, members in run.by_base().items()]
    sites = {members[0].site for _, _, members in found}
    series = []
    for i, (run, base, members) in enumerate(found):
        parts = [run.label] * (len(runs) > 1) + [base] + [members[0].site] * (len(sites) > 1)
        series.append(Series(run, tuple(members), _label(parts), color(i), marker(i)))
    return series


def _label(parts: Sequence[str], room: int = 26) -> str:
    """Parts that fit whole stay whole; each of the others is cut in its own middle, so that none is lost."""
    room -= 3 * (len(parts) - 1)
    share = {}
    for left, i in enumerate(sorted(range(len(parts)), key=lambda i: len(parts[i]))):
        share[i] = min(len(parts[i]), room // (len(parts) - left))
        room -= share[i]
    return " · ".join(clip(part, share[i]) for i, part in enumerate(parts))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions close to the wanted ones, in their order, at least `gap` apart, within [low, high] when all fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # clusters of labels that would touch, each a [sum of wished starts, size]; merged until none overlap
    clusters: list[list[float]] = []
    for rank, i in enumerate(order):
        clusters.append([wanted[i] - rank * gap, 1])
        while len(clusters) > 1 and clusters[-2][0] / clusters[-2][1] >= clusters[-1][0] / clusters[-1][1]:
            total, size = clusters.pop()
            clusters[-1][0] += total
            clusters[-1][1] += size
    starts = [total / size for total, size in clusters for _ in range(int(size))]
    last = high - (len(order) - 1) * gap
    placed = [min(max(start, low), max(last, low)) + rank * gap for rank, start in enumerate(starts)]
    return [placed[order.index(i)] for i in range(len(wanted))]


def label_right(ax: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], colors: Sequence[str]) -> None:
    """Name each point at the right edge of the axes, at its height, with a hair line where the label had to move."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    if not points:
        return
    # limits are worked out lazily, and transData knows them only then
    _ = ax.get_xlim(), ax.get_ylim()
    height = ax.get_window_extent().height * 72 / figure.dpi
    heights = [float(ax.transAxes.inverted().transform(ax.transData.transform(point))[1]) for point in points]
    gap = 11 / height
    for point, at, label, shade in zip(points, spread(heights, gap, 0.02, 0.98), labels, colors, strict=True):
        ax.annotate(
            label,
            xy=point,
            xycoords="data",
            xytext=(1.03, at),
            textcoords="axes fraction",
            color=shade,
            fontsize=8,
            va="center",
            ha="left",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": shade,
                "linewidth": 0.5,
                "alpha": 0.5,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )
