"""Tables of docs/performance.md, from the results files: see tables.py."""

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]
Read = Callable[[str], Result]

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
    lines = [f"| preset | promise | measured | ms beyond TopK's {_ms(base)} | |", "|---|--:|--:|--:|---|"]
    for name, bar in result["bar"].items():
        found = f"{result['ratio'][name]:.2f} ({_range(result['spread'][name], 2)})"
        verdict = "missed" if name in result["missed"] else "kept"
        lines.append(f"| {name} | {bar} | {found} | {_ms(seconds[name] - base)} | {verdict} |")
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


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"
