"""The comparison as a table in the terminal, readable at 80 columns and at any width above; as JSON and as CSV."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from chronosae.config import flags as flag_words
from chronosae.report.compare import Comparison, Row, needs_letters
from chronosae.report.statistics import L0_TOLERANCE, LEVEL, Estimate, headlines

UNDEFINED = "-"


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Row], str]
    keep: int
    """Columns with the smallest number go first when the terminal is narrow."""
    left: bool = False
    shared: str = ""
    """When every row holds the same value, it goes into the caption under this name."""


def format_estimate(found: Estimate | None, spec: str, n: int) -> str:
    """`0.912`, with seeds `0.912 ±0.004`, `-` when undefined; `(n=2)` follows when only 2 of the n seeds define it."""
    if found is None:
        return UNDEFINED
    text = format(found.mean, spec)
    if found.half_width is not None:
        text += f" ±{found.half_width:{spec}}"
    return text if found.n == n else f"{text} (n={found.n})"


def metric_cell(name: str, spec: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        text, tested = format_estimate(row.metrics.get(name), spec, row.n), row.differences.get(name)
        return f"{text} ≈" if tested is not None and tested.significant is False else text

    return cell


def _asked(row: Row) -> str:
    if row.k is not None:
        return f"{row.k:g}"
    return UNDEFINED if row.target_l0 is None else f"→{row.target_l0:g}"


def _columns(rows: Sequence[Row], footnotes: Sequence[str]) -> list[_Column]:
    lettered = needs_letters(rows)

    def l0(row: Row) -> str:
        text = format_estimate(row.metrics.get("novel_l0"), ".1f", row.n)
        return text if not lettered or row.l0_group is None else f"{text} {row.l0_group}"

    def flags(row: Row) -> str:
        return ",".join(str(footnotes.index(flag) + 1) for flag in row.flags) or UNDEFINED

    return [
        _Column("run", lambda row: row.run, 100, left=True, shared="run"),
        _Column("SAE", lambda row: row.sae, 100, left=True),
        _Column("site", lambda row: row.site, 20, left=True, shared="site"),
        _Column("d_sae", lambda row: UNDEFINED if row.d_sae is None else str(row.d_sae), 40, shared="d_sae"),
        _Column("k/→L0", _asked, 45),
        _Column("n", lambda row: str(row.n), 85, shared="n"),
        _Column("L0", l0, 100),
        _Column("FVE", metric_cell("explained_variance", ".3f"), 100),
        _Column("PCA", metric_cell("pca_explained_variance", ".3f"), 60),
        _Column("CE rec.", metric_cell("ce_loss_score", ".3f"), 90),
        _Column("KL rec.", metric_cell("kl_div_score", ".3f"), 50),
        _Column("MSE", metric_cell("mse", ".3g"), 15),
        _Column("cosine", metric_cell("cossim", ".3f"), 12),
        _Column("alive", metric_cell("frac_alive", ".3f"), 55),
        _Column("loss", metric_cell("final_loss", ".4g"), 10),
        _Column("flags", flags, 95),
    ]


def to_rich(compared: Comparison, width: int = 80) -> RenderableType:
    """A table no wider than `width`, what its rows share above it, and flags and notes below it."""
    rows = compared.rows
    footnotes = list(dict.fromkeys(flag for row in rows for flag in row.flags))
    columns, shared = _columns(rows, footnotes), []
    for column in list(columns):
        values = {column.cell(row) for row in rows}
        if column.shared and len(values) == 1:
            columns.remove(column)
            shared.append(f"{column.shared} {_plain(next(iter(values)))}")
    left_out = []
    while len(columns) > 2 and _width(_table(columns, rows)) > width:
        narrowest = min(columns, key=lambda column: column.keep)
        columns.remove(narrowest)
        left_out.append(narrowest.title)
    lines = [f"[{i}] {flag_words.explain(flag)}" for i, flag in enumerate(footnotes, start=1)]
    lines += compared.notes
    if left_out:
        lines.append(f"Left out at this width: {', '.join(left_out)}; widen the terminal, or use --json or --csv.")
    return Group(
        *([Text(", ".join(shared), style="dim")] if shared else []),
        _table(columns, rows),
        *_evaluations(rows),
        *(Text(_plain(line), style="dim") for line in lines),
    )


def _evaluations(rows: Sequence[Row]) -> list[RenderableType]:
    """The headline numbers of the evaluations beside core, one column an autoencoder: there may be many of both."""
    found = evaluations(rows)
    if not found:
        return []
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    several = len({row.run for row in rows}) > 1
    for title in ("evaluation", *(f"{row.run} {row.sae}" if several else row.sae for row in rows)):
        table.add_column(_plain(title), justify="left" if title == "evaluation" else "right", overflow="fold")
    for name, title in found.items():
        table.add_row(title, *(Text(metric_cell(name, ".3f")(row)) for row in rows))
    return [Text(""), table]


def evaluations(rows: Sequence[Row]) -> dict[str, str]:
    """Headline metrics of the evaluations beside core that any of `rows` has, and their titles."""
    return {
        name: title for name, title in headlines().items() if "." in name and any(row.metrics.get(name) for row in rows)
    }


def print_table(compared: Comparison, console: Console | None = None) -> None:
    """Print the comparison at the console's width."""
    console = console or Console()
    console.print(to_rich(compared, console.width))


def _table(columns: Sequence[_Column], rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        # only names may wrap, when they alone are wider than the terminal: a number cut short would be a wrong one
        table.add_column(column.title, justify="left" if column.left else "right", no_wrap=not column.left)
        if column.left:
            table.columns[-1].overflow = "fold"
    for row in rows:
        table.add_row(*(Text(_plain(column.cell(row))) for column in columns))
    return table


def _width(table: Table) -> int:
    wide = Console(width=10_000)
    return wide.measure(table).maximum


def _plain(text: str) -> str:
    """Text from files without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def to_json(compared: Comparison) -> str:
    """The comparison as JSON: every core metric as mean, interval and values, undefined ones null; never NaN."""
    rows = [_json_row(row) for row in compared.rows]
    data = {"schema": 1, "level": LEVEL, "l0_tolerance": L0_TOLERANCE, "rows": rows, "notes": list(compared.notes)}
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)


def _json_row(row: Row) -> dict[str, Any]:
    metrics = {
        name: None
        if found is None
        else {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "values": list(found.values)}
        for name, found in row.metrics.items()
    }
    differences = {
        name: {
            "baseline": one.baseline,
            "mean": one.found.mean,
            "low": one.found.low,
            "high": one.found.high,
            "n": one.found.n,
            "p_holm": one.p,
            "significant": one.significant,
        }
        for name, one in row.differences.items()
    }
    return {
        **_head(row),
        "seeds": list(row.seeds),
        "metrics": metrics,
        "over_examples": {name: {"low": low, "high": high} for name, (low, high) in row.over_examples.items()},
        "differences": differences,
        "flags": list(row.flags),
    }


def _head(row: Row) -> dict[str, Any]:
    return {
        "run": row.run,
        "title": row.title,
        "sae": row.sae,
        "preset": row.preset,
        "site": row.site,
        "d_sae": row.d_sae,
        "k": row.k,
        "target_l0": row.target_l0,
        "n": row.n,
        "l0_group": row.l0_group,
        "l0_matched": row.l0_matched,
    }


def to_csv(compared: Comparison) -> str:
    """The comparison as CSV: `<metric>`, `<metric>_low`, `<metric>_high`, `<metric>_n`; undefined is empty."""
    text = io.StringIO()
    lines = [_csv_row(row) for row in compared.rows]
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else ["run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_row(row: Row) -> dict[str, Any]:
    line = {**_head(row), "seeds": " ".join(str(seed) for seed in row.seeds if seed is not None)}
    for name, found in row.metrics.items():
        line[name] = None if found is None else found.mean
        line[f"{name}_low"] = None if found is None else found.low
        line[f"{name}_high"] = None if found is None else found.high
        line[f"{name}_n"] = 0 if found is None else found.n
    return {**line, "flags": "; ".join(row.flags)}
