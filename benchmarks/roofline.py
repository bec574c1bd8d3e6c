"""Where the time of a large TopK step goes, part by part, and how far each part is above its floor.

python benchmarks/roofline.py [--json] [--repeats 7] [--plot]

One thread, seconds of CPU (which waiting does not add to), the trainer's step under Python's profiler; nothing is timed
but the entry points of kernels. A part's floor is the larger of its floating-point operations over the peak of bfloat16
products, and its bytes (every array it needs read or written once) over the speed of a copy; both are measured in the
same rounds, the best counts. `ratio`: the whole step, and the sum of the floors, over the encoder product alone.
"""

import cProfile
import json
import pstats
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from turns import Task, about, encoder_product, middle, parser, spread, training_step

D, F, K, T = 768, 12_288, 32, 2_048
SIZE = {"d_in": D, "d_sae": F, "k": K, "tokens": T, "context": 128}
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "roofline.png"
PEAK_SIDE, COPY_BYTES = 4_096, 2**29

# Bytes of a weight, of the batch, of the pre-activations (all but the last in float32); operations on the active.
WEIGHT, BATCH, PRE, ACTIVE = 4 * F * D, 4 * T * D, 2 * T * F, 2 * T * K * D


class Part(NamedTuple):
    """Some functions of the package, each as (file, name, the caller's name or None for any caller)."""

    name: str
    functions: tuple[tuple[str, str, str | None], ...]
    operations: float = 0
    bytes: float = 0


PARTS = (
    Part(
        "weights and inputs to bfloat16",
        (("kernels/rounded.py", "rounded_inputs", None), ("kernels/rounded.py", "rounded_weights", None)),
        bytes=1.5 * (WEIGHT + BATCH),
    ),
    Part(
        "encoder product",
        (("kernels/low_precision.py", "product_bits", None),),
        operations=2 * T * F * D,
        bytes=(WEIGHT + BATCH) / 2 + PRE,
    ),
    Part(
        "choice, exact values of candidates",
        (("kernels/low_precision.py", "choose", "topk_of_product"),),
        operations=ACTIVE,
        bytes=PRE + WEIGHT + BATCH,
    ),
    Part("tokens left undecided", (("kernels/low_precision.py", "decide_in_full", None),)),
    Part("decode", (("kernels/slots.py", "combine", "forward"),), operations=ACTIVE, bytes=WEIGHT + BATCH),
    Part(
        "error and its gradient",
        (("kernels/squared_error.py", "forward", None), ("kernels/squared_error.py", "backward", None)),
        bytes=5 * BATCH,
    ),
    Part(
        "gradients of codes and decoder",
        (("kernels/slots.py", "decode_gradients", None),),
        operations=2 * ACTIVE,
        bytes=2 * WEIGHT + BATCH,
    ),
    Part(
        "gradient of the encoder",
        (("kernels/slots.py", "by_feature", "backward"), ("kernels/slots.py", "weighted_rows", None)),
        operations=ACTIVE,
        bytes=WEIGHT + BATCH,
    ),
    Part("norms of the gradients", (("training/update.py", "measure", None),), bytes=3 * WEIGHT),
    Part("AdamW, projection, unit norm", (("training/update.py", "apply", None),), bytes=14 * WEIGHT),
)


def main() -> None:
    """Command line."""
    options = parser(__doc__, repeats=7)
    options.add_argument("--plot", action="store_true", help=f"draw docs/figures/{FIGURE.name}")
    args = options.parse_args()
    args.cpu = True
    torch.set_num_threads(1)
    rounds = _rounds(args.repeats)
    peak = 2 * PEAK_SIDE * PEAK_SIDE * 1024 / min(r["peak"] for r in rounds)
    bandwidth = COPY_BYTES / min(r["copy"] for r in rounds)
    parts = [_part(part, rounds, peak, bandwidth) for part in PARTS]
    rest = [r["step"] - sum(r[part.name] for part in PARTS) for r in rounds]
    parts.append({"part": "all else", "seconds": middle(rest, 5), "floor_seconds": None, "over_floor": None})
    whole = [r["step"] / r["product"] for r in rounds]
    floors = sum(part["floor_seconds"] or 0 for part in parts)
    result = {
        "ratio": {
            "step": middle(whole),
            "floors": round(floors / middle((r["product"] for r in rounds), 6), 3),
        },
        "spread": {"step": spread(whole)},
        "parts": parts,
        "seconds": {name: middle((r[name] for r in rounds), 5) for name in ("step", "product")},
        "floor_seconds": round(floors, 5),
        "peak_teraflops": round(peak / 1e12, 3),
        "copy_gb_per_s": round(bandwidth / 1e9, 2),
        **SIZE,
        **about(args),
    }
    for part in parts:
        beside = (
            ""
            if part["floor_seconds"] is None
            else f"{1e3 * part['floor_seconds']:6.1f} ms   {part['over_floor']:.1f} x"
        )
        print(f"{part['part']:36s} {1e3 * part['seconds']:6.1f} ms   {beside}")
    print(f"step: {result['ratio']['step']} products, floors: {result['ratio']['floors']}")
    if args.plot:
        from plots import roofline_figure

        roofline_figure(result, FIGURE)
    if args.json:
        print(json.dumps(result))


def _rounds(repeats: int) -> list[dict[str, float]]:
    """Seconds of every part, of the step, and of what the floors are made of."""
    product, step = encoder_product(T, D, F), training_step("topk", {}, SIZE)
    peak = encoder_product(PEAK_SIDE, 1_024, PEAK_SIDE)
    here, there = torch.ones(COPY_BYTES // 8), torch.ones(COPY_BYTES // 8)
    simple: dict[str, Task] = {"product": product, "peak": peak, "copy": lambda: there.copy_(here)}
    rounds = []
    for _ in range(repeats + 2):
        seconds = _profiled(step)
        for name, task in simple.items():
            start = time.thread_time()
            task()
            seconds[name] = time.thread_time() - start
        rounds.append(seconds)
    return rounds[2:]


def _profiled(step: Task) -> dict[str, float]:
    profile, start = cProfile.Profile(time.thread_time), time.thread_time()
    profile.enable()
    step()
    profile.disable()
    seconds = {"step": time.thread_time() - start}
    stats: dict[Any, Any] = vars(pstats.Stats(profile))["stats"]
    for part in PARTS:
        found = [_inside(stats, *function) for function in part.functions]
        # Without tokens left undecided nobody may call.
        if 0 in [calls for calls, _ in found] and part.operations + part.bytes:
            raise SystemExit(f"'{part.name}': one of {part.functions} was never called; its name may have changed")
        seconds[part.name] = sum(spent for _, spent in found)
    return seconds


def _inside(stats: dict[Any, Any], file: str, name: str, caller: str | None) -> tuple[int, float]:
    """How often a function was called, and the seconds in it and what it called."""
    calls, spent = 0, 0.0
    for (path, _, function), (_, all_calls, _, all_spent, callers) in stats.items():
        if function != name or not Path(path).as_posix().endswith(file):
            continue
        if caller is None:
            calls, spent = calls + all_calls, spent + all_spent
        for (_, _, who), (_, some_calls, _, some_spent) in callers.items():
            if who == caller:
                calls, spent = calls + some_calls, spent + some_spent
    return calls, spent


def _part(part: Part, rounds: list[dict[str, float]], peak: float, bandwidth: float) -> dict[str, Any]:
    seconds = middle((r[part.name] for r in rounds), 5)
    floor = max(part.operations / peak, part.bytes / bandwidth)
    limit = "operations" if part.operations / peak > part.bytes / bandwidth else "bytes"
    return {
        "part": part.name,
        "seconds": seconds,
        "spread": spread((r[part.name] for r in rounds), 5),
        "operations": part.operations,
        "bytes": part.bytes,
        "floor_seconds": round(floor, 5) if floor else None,
        "limit": limit if floor else None,
        "over_floor": round(seconds / floor, 2) if floor else None,
    }


if __name__ == "__main__":
    main()
