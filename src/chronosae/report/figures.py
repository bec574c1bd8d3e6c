"""The comparison drawn from run folders alone. matplotlib without pyplot: no window, no global state."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator, PercentFormatter

from chronosae.config import UserError
from chronosae.report import style
from chronosae.report.curves import density_figure, training_figure
from chronosae.report.runs import Run
from chronosae.report.series import Series, series_of
from chronosae.report.statistics import Estimate, estimate

FORMATS = ("png", "svg")


def plot_comparison(runs: Sequence[Run], out: Path | str, fmt: str = "png") -> list[Path]:
    """Draw every figure that the runs' files allow into the folder `out`; returns the files written.

    Raises:
        UserError: unknown format, `out` can't be written, or nothing in the runs can be drawn.
    """
    if fmt not in FORMATS:
        raise UserError(f"--format {fmt}: unknown figure format; legal: {', '.join(FORMATS)}")
    out, written = Path(out), []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in comparison_figures(runs).items():
            path = out / f"{name}.{fmt}"
            with matplotlib.rc_context(style.STYLE):
                # no date and no version in the file: the same data give the same bytes
                figure.savefig(path, metadata={"Software": None} if fmt == "png" else {"Date": None})
            written.append(path)
    except OSError as error:
        raise UserError(f"--out {out}: can't be written ({error.strerror})") from None
    if not written:
        raise UserError("nothing to draw: these runs hold neither core metrics nor training curves")
    return written


def comparison_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """File name without ending -> figure, for those that have data."""
    makers: dict[str, Callable[[Sequence[Run]], Figure | None]] = {
        "sparsity": sparsity_figure,
        "recovery": recovery_figure,
        "training": training_figure,
        "densities": density_figure,
    }
    with matplotlib.rc_context(style.STYLE):
        made = {name: make(runs) for name, make in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def sparsity_figure(runs: Sequence[Run]) -> Figure | None:
    """Active features against variance explained, a point a seed, beside the curve of principal components."""
    found = [(series, points) for series in series_of(runs) if (points := _sparsity_points(series))]
    if not found:
        return None
    figure = Figure(figsize=(7.2, 4.4))
    ax = figure.add_axes((0.11, 0.125, 0.58, 0.78))
    curves = _pca_curves(runs)
    for curve in curves:
        ax.plot(list(curve), list(curve.values()), color=style.GREY, linewidth=1.2, linestyle=(0, (4, 2)), label="PCA")
    for series, points in found:
        xs, ys = zip(*points, strict=True)
        ax.plot(xs, ys, series.marker, color=series.color, markersize=6, markeredgecolor="white", label=series.label)
    l0s = [x for _, points in found for x, _ in points]
    ax.set_xscale("log", base=2)
    ax.set_xlim(max(min(l0s) / 3, 0.5), max(l0s) * 3)
    visible = [y for curve in curves for x, y in curve.items() if ax.get_xlim()[0] <= x <= ax.get_xlim()[1]]
    heights = [y for _, points in found for _, y in points] + visible
    margin = 0.06 * max(max(heights) - min(heights), 0.05)
    ax.set_ylim(min(heights) - margin, max(heights) + margin)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("active features a token (L0, held-out text)")
    ax.set_ylabel("variance explained (FVE)")
    ax.set_title("Variance explained by sparsity: up and to the left is better")
    ends = [(_mean(points, 0), _mean(points, 1)) for _, points in found]
    labels, colors = [series.label for series, _ in found], [series.color for series, _ in found]
    for x, y in [point for point in (curves[0].items() if curves else ()) if point[0] <= ax.get_xlim()[1]][-1:]:
        ends, labels, colors = [*ends, (x, y)], [*labels, "PCA, that many components"], [*colors, style.GREY]
    style.label_right(ax, ends, labels, colors)
    return figure


def _sparsity_points(series: Series) -> list[tuple[float, float]]:
    pairs = ((sae.metrics.get("novel_l0"), sae.metrics.get("explained_variance")) for sae in series.saes)
    return [(x, y) for x, y in pairs if x is not None and x > 0 and y is not None]


def _mean(points: Sequence[tuple[float, float]], axis: int) -> float:
    return sum(point[axis] for point in points) / len(points)


def _pca_curves(runs: Sequence[Run]) -> list[dict[float, float]]:
    """One curve for each distinct one in the evaluation files, else the single points among the metrics."""
    curves: list[dict[float, float]] = []
    for run in runs:
        for sae in run.saes:
            details = run.details(sae.name)
            curve = {float(k): share for k, share in details.pca_curve.items()} if details else {}
            if curve and curve not in curves:
                curves.append(curve)
    if curves:
        return curves
    pairs = [
        (sae.metrics.get("novel_l0"), sae.metrics.get("pca_explained_variance")) for run in runs for sae in run.saes
    ]
    points = {float(max(round(k), 1)): share for k, share in pairs if k is not None and share is not None}
    return [dict(sorted(points.items()))] if points else []


RECOVERY = {"ce_loss_score": "Cross-entropy recovered", "explained_variance": "Variance explained (FVE)"}


def recovery_figure(runs: Sequence[Run]) -> Figure | None:
    """Loss recovered and variance explained: a dot a seed, the mean as a bar, its 95 % interval as a line."""
    every = series_of(runs)
    found = {name: [(s, e) for s in every if (e := _estimate(s, name)) is not None] for name in RECOVERY}
    shown = [series for series in every if any(series is s for pairs in found.values() for s, _ in pairs)]
    if not shown:
        return None
    tall = 1.5 + 0.36 * len(shown)
    figure = Figure(figsize=(7.6, tall))
    for column, (name, title) in enumerate(RECOVERY.items()):
        ax = figure.add_axes((0.25 + 0.37 * column, 0.55 / tall, 0.32, 1 - 1.15 / tall))
        for series, value in found[name]:
            _bar(ax, shown.index(series), series, value)
        lows = [e.low if e.low is not None else e.mean for _, e in found[name]]
        left = min([0.0, *lows])
        ax.set_xlim(1.05 * left, 1.18)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_yticks(range(len(shown)), [series.label if column == 0 else "" for series in shown])
        ax.tick_params(axis="y", length=0, labelsize=8)
        ax.grid(axis="y", visible=False)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_title(title)
    several = any(len(series.saes) > 1 for series in shown)
    note = "bars: means over seeds; lines: 95 % t-intervals; dots: seeds" if several else "one seed each: no intervals"
    figure.text(0.25, 0.12 / tall, note, fontsize=8, color=style.GREY)
    return figure


def _bar(ax: Axes, place: int, series: Series, value: Estimate) -> None:
    ax.barh(place, value.mean, height=0.62, color=series.color, alpha=0.35, linewidth=0)
    end = value.mean
    if value.low is not None and value.high is not None:
        ax.plot([value.low, value.high], [place, place], color=series.color, linewidth=2, solid_capstyle="butt")
        end = value.high
    ax.plot(value.values, [place] * value.n, ".", color=series.color, markersize=4)
    ax.text(max(end, 0) + 0.02, place, f"{value.mean:.1%}", va="center", fontsize=8, color="#333333")


def _estimate(series: Series, name: str) -> Estimate | None:
    return estimate(sae.metrics.get(name) for sae in series.saes)
