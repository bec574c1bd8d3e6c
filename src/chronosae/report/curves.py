"""Figures of training curves and of feature densities."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from chronosae.report import style
from chronosae.report.files import number
from chronosae.report.runs import Run
from chronosae.report.series import Series, series_of

PANELS = {"loss": "training loss", "l0": "active features a token (L0)", "dead": "dead features"}
DECADE_BINS = 5


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
        pairs = [(number(row.get("tokens")), number(row.get(metric))) for row in rows.get(sae.name, [])]
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
