"""What the pages on performance show, from the results files: tables and figures.

python benchmarks/pages.py [--figures]

Writes the tables of docs/roofline.md and docs/performance.md into the pages, each after the comment that names it; with
`--figures` it draws docs/figures/scaling.png and docs/figures/roofline.png instead.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from chronosae.report.style import GREY, STYLE, color

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
Result = dict[str, Any]
Read = Callable[[str], Result]

GROWS = {"d_sae": "TopK, d_sae", "k": "TopK, k", "tokens": "TopK, tokens in a batch", "context": "chrono, context"}
AXIS = {
    "d_sae": "features (d_sae)",
    "k": "active features at a token (k)",
    "tokens": "tokens in a batch",
    "context": "tokens in a sequence",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", action="store_true", help="draw the figures instead")
    if parser.parse_args().figures:
        for name, draw in (("scaling", scaling_figure), ("roofline", roofline_figure)):
            draw(_result(name), FIGURES / f"{name}.png")
        return
    for name, text in pages(_result).items():
        (ROOT / "docs" / f"{name}.md").write_text(text, encoding="utf-8")


def pages(read: Callable[[str], dict[str, Any]]) -> dict[str, str]:
    """The pages as they should be, by name; `read` gives a benchmark's result."""
    old = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("roofline", "performance")}
    roofline = {"parts": _roofline_rows(read("roofline")), "scaling": _scaling(read("scaling"))}
    performance = filled(old["performance"], performance_tables(read))
    for name, cell in measured(read).items():
        row = rf"(?m)^(\| .*`python benchmarks/(?:\w+\.py )?{name}(?:\.py)? --json`.*\| )[^|]+ \|$"
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


def _roofline_rows(result: dict[str, Any]) -> list[str]:
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
            lines.append(f"| {GROWS[axis]} | {point[axis]:,d} | {shown} | {' | '.join(beside)} |")
    return lines


STEPS = {
    "large": ("d_in 768, d_sae 12,288, 2,048 tokens, AuxK off", "1.8, 5, 5"),
    "large_auxk": ("the same, AuxK on", "2.2, 5, 5"),
    "small": ("d_in 256, d_sae 4,096, 4,096 tokens, AuxK off", "1.6, 3, 3"),
    "small_auxk": ("the same, AuxK on", "1.6, 3, 3"),
}
LIBRARIES = {
    "sparsify": "sparsify",
    "saelens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "dense": "dense",
}
STORES = {
    "saelens": "SAELens",
    "saelens_hf": "its Hugging Face path",
    "saelens_bfloat16": "SAELens in bfloat16",
    "dictionary_learning": "dictionary_learning",
}
READS = ("cold in order", "cold shuffled", "warm in order", "warm shuffled")


def performance_tables(read: Read) -> dict[str, list[str]]:
    """Lines of Markdown, by the table's name; `read` gives a benchmark's result."""
    return {
        "steps": _steps(read("train_step")),
        "extra": _extra(read("temporal_extra")),
        "stores": _stores(read("harvest_peers")),
        "cache": _cache(read("cache_read")),
    }


def measured(read: Read) -> dict[str, str]:
    """What came out of each benchmark: the last cell of its row in the table of promises."""
    stores, tax, memory = read("harvest_peers"), read("temporal_tax")["ratio"], read("memory")
    run, cache, overhead = read("whole_run"), read("cache_read"), read("trainer_overhead")
    evaluations = read("evaluations")["ratio"]
    ours = [stores[name]["ratio"]["saelens"] for name in ("chronosae", "chronosae_bfloat16")]
    cached = {name: case["ratio"]["cold in order"] for name, case in cache["cases"].items()}
    paired, verdict = cache["cases"]["bfloat16"]["median"]["cold in order"], "" if cache["ok"] else "missed; "
    others = ", ".join(f"{name} {tax[name]:.2f}" for name in ("consistency", "causal", "positional", "chrono"))
    return {
        "harvest": f"{read('harvest')['ratio']:.3f}",
        "trainer_overhead": f"{overhead['ratio']:.3f} ({_range(overhead['spread'], 2)} over 9 pairs)",
        "temporal_tax": f"multiscale {tax['multiscale']:.2f} (input placement {tax['multiscale (input)']:.2f}), "
        f"{others}; TopK itself by the sparse step {tax['topk (sparse step)']:.2f}",
        "train_step": f"{read('train_step')['ratio']['sparsify']:.2f}; see below",
        "harvest_peers": f"{ours[0]:.2f}; {ours[1]:.2f} (see below)",
        "whole_run": f"{run['ratio']['saelens']:.2f} ({_range(run['spread']['saelens'], 2)}); its training alone "
        f"{run['training']['ratio']['saelens']:.2f}",
        "cache_read": f"{cached['bfloat16']:.2f} ({verdict}float32 {cached['float32']:.2f}; median of paired rounds "
        f"{paired:.2f}; see below)",
        "memory": f"{_memory(memory, 'large')}; with AuxK on {_memory(memory, 'large_auxk')}; d_sae 131,072: "
        f"{_memory(memory, 'wide')}, {_memory(memory, 'wide_auxk')}",
        "evaluations": f"core {evaluations['core']:.2f}, sparse probing {evaluations['sparse_probing']:.2f} by "
        f"SAEBench's protocol, {evaluations['sparse_probing (our protocol)']:.2f} by ours (three rounds, on a machine "
        "that was not quite idle)",
    }


def _memory(result: Result, case: str) -> str:
    return f"{result['ratio'][case]:.2f}" + ("" if result["cases"][case]["ok"] else " (missed)")


def _steps(result: Result) -> list[str]:
    lines = [f"| step | promise | {' | '.join(LIBRARIES.values())} |", "|---|---|" + "---|" * len(LIBRARIES)]
    for name, (size, promise) in STEPS.items():
        case = result["cases"][name]
        cells = [f"{case['ratio'][peer]:.2f} ({_range(case['spread'][peer], 1)})" for peer in LIBRARIES]
        lines.append(f"| {size} | {promise} | {' | '.join(cells)} |")
    return lines


def _extra(result: Result) -> list[str]:
    seconds, base = result["seconds"], result["seconds"]["topk"]
    lines = [f"| preset | promise | measured | ms beyond TopK's {_whole_ms(base)} | |", "|---|--:|--:|--:|---|"]
    for name, bar in result["bar"].items():
        found = f"{result['ratio'][name]:.2f} ({_range(result['spread'][name], 2)})"
        verdict = "missed" if name in result["missed"] else "kept"
        lines.append(f"| {name} | {bar} | {found} | {_whole_ms(seconds[name] - base)} | {verdict} |")
    return lines


def _stores(result: Result) -> list[str]:
    lines = [f"| ours | {' | '.join(STORES.values())} |", "|---|" + "--:|" * len(STORES)]
    for ours, shown in {"chronosae": "float32", "chronosae_bfloat16": "bfloat16"}.items():
        ratio = result[ours]["ratio"]
        lines.append(f"| {shown} | {' | '.join(f'{ratio[peer]:.2f}' for peer in STORES)} |")
    return lines


def _cache(result: Result) -> list[str]:
    heads = "| `cache_dtype` | disk | cold, in order | cold, shuffled | warm, in order | warm, shuffled | disk, warm |"
    lines = [heads, "|---|" + "--:|" * (len(READS) + 2)]
    for dtype, case in result["cases"].items():
        rate = case["megabytes_per_s"]
        cells = [f"{rate[k]:,.0f}: {case['ratio'][k]:.2f} ({_range(case['spread'][k], 2)})" for k in READS]
        lines.append(f"| {dtype} | {rate['cold disk']:,.0f} | {' | '.join(cells)} | {rate['warm disk']:,.0f} |")
    return lines


def _range(bounds: list[float], digits: int) -> str:
    low, high = bounds
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _whole_ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"


LINES = {"step": "sparse step", "dense": "plain torch"}


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
            axes.set_xlabel(AXIS[name])
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
