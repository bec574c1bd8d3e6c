"""The comparison drawn from run folders alone: sparsity, recovery, training curves and densities of features.

matplotlib without pyplot: no window, no global state.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from chronosae.config import UserError
from chronosae.report import style
from chronosae.report.runs import Run
from chronosae.report.statistics import Estimate, estimate
from chronosae.report.style import Series, series_of

FORMATS = ("png", "svg")
PANELS = {"loss": "training loss", "l0": "active features a token (L0)", "dead": "dead features"}
DECADE_BINS = 5


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


def training_figure(runs: Sequence[Run]) -> Figure | None:
    """Loss, L0 and dead features against tokens seen: a line a seed."""
    every = [series for series in series_of(runs) if any(training_lines(series, metric) for metric in PANELS)]
    if not every:
        return None
    # room for every name beside its panel
    figure = Figure(figsize=(7.2, max(7.6, 0.62 * len(every))))
    for row, (metric, name) in enumerate(PANELS.items()):
        ax = figure.add_axes((0.1, 0.065 + 0.315 * (2 - row), 0.61, 0.25))
        found = [(series, lines) for series in every if (lines := training_lines(series, metric))]
        for series, lines in found:
            for tokens, values in lines:
                ax.plot(tokens, values, color=series.color, alpha=0.9 if len(lines) == 1 else 0.6, linewidth=1.3)
        _scale(ax, metric, [v for _, lines in found for _, values in lines for v in values])
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.margins(x=0.01)
        ax.set_title(name[0].upper() + name[1:])
        if row == 2:
            ax.set_xlabel("tokens seen in training")
        else:
            ax.tick_params(axis="x", labelbottom=False)
        ends = [
            (max(tokens[-1] for tokens, _ in lines), float(np.mean([v[-1] for _, v in lines]))) for _, lines in found
        ]
        style.label_right(ax, ends, [series.label for series, _ in found], [series.color for series, _ in found])
    return figure


def training_lines(series: Series, metric: str) -> list[tuple[list[float], list[float]]]:
    """(tokens, values) for each seed, from metrics.jsonl; points that aren't numbers are left out."""
    rows, lines = series.run.training(), []
    for sae in series.saes:
        pairs = [(line.tokens, getattr(line, metric)) for line in rows.get(sae.name, [])]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        if points:
            lines.append(([x for x, _ in points], [y for _, y in points]))
    return lines


def _scale(ax: Axes, metric: str, values: Sequence[float]) -> None:
    """Logarithmic where values span more than a decade; counts of dead features start at zero."""
    if metric == "dead":
        ax.set_ylim(0, max([*values, 1]) * 1.08)
    elif values and min(values) > 0 and max(values) > 10 * min(values):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_locator(NullLocator())


def density_figure(runs: Sequence[Run]) -> Figure | None:
    """How often features fire: share of each autoencoder's features in bins of log density; never firing apart."""
    found = [(series, values) for series in series_of(runs) if (values := densities(series))]
    if not found:
        return None
    lowest = min((min((v for v in values if v > 0), default=1.0) for _, values in found), default=1e-6)
    first = int(np.floor(np.log10(lowest)))
    edges = 10.0 ** np.linspace(min(first, -1), 0, DECADE_BINS * -min(first, -1) + 1)
    figure = Figure(figsize=(7.6, 3.9))
    ax = figure.add_axes((0.09, 0.14, 0.54, 0.76))
    peaks = []
    for series, values in found:
        shares = np.histogram([v for v in values if v > 0], bins=edges)[0] / len(values)
        ax.stairs(shares, edges, color=series.color, linewidth=1.5, fill=False)
        peak = int(shares.argmax())
        peaks.append((float(np.sqrt(edges[peak] * edges[peak + 1])), float(shares[peak])))
    ax.set_xscale("log")
    ax.set_ylim(0, max(y for _, y in peaks) * 1.1 or 1)
    ax.set_xlim(lowest * 0.7, 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("share of held-out tokens on which a feature fires")
    ax.set_ylabel("share of features")
    ax.set_title("How often features fire (beside the names: share that never does)")
    labels = [f"{series.label}: {np.mean(np.array(values) == 0):.1%} never" for series, values in found]
    style.label_right(ax, peaks, labels, [series.color for series, _ in found])
    return figure


def densities(series: Series) -> list[float]:
    """Densities of all features of all seeds, from the evaluation files."""
    found = (series.run.details(sae.name) for sae in series.saes)
    return [density for details in found if details for density in details.densities]
