"""What a large TopK step can't do without, in time and in memory, and what it takes.

python benchmarks/costs.py roofline | memory [--json]
"""

import argparse
import cProfile
import ctypes
import gc
import json
import pstats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from turns import (
    Task,
    about,
    bare_parser,
    command_line,
    encoder_product,
    machine,
    middle,
    parser,
    spread,
    tell,
    training_step,
)

from chronosae.activations import SequenceBatch
from chronosae.config import TrainingConfig
from chronosae.presets import build
from chronosae.training import Trainee

D, F, K, T = 768, 12_288, 32, 2_048
SIZE = {"d_in": D, "d_sae": F, "k": K, "tokens": T, "context": 128}
PEAK_SIDE, COPY_BYTES = 4_096, 2**29

# Bytes of a weight, of the batch, of the pre-activations (all but the last in float32); operations on the active.
WEIGHT, BATCH, PRE, ACTIVE = 4 * F * D, 4 * T * D, 2 * T * F, 2 * T * K * D


class Part(NamedTuple):
    """Some functions of the package, each as (room or file, name, the caller's name or None for any caller)."""

    name: str
    functions: tuple[tuple[str, str, str | None], ...]
    operations: float = 0
    bytes: float = 0


PARTS = (
    Part(
        "weights and inputs to bfloat16",
        (("kernels/", "rounded_inputs", None), ("kernels/", "rounded_weights", None)),
        bytes=1.5 * (WEIGHT + BATCH),
    ),
    Part(
        "encoder product",
        (("kernels/", "product_bits", None),),
        operations=2 * T * F * D,
        bytes=(WEIGHT + BATCH) / 2 + PRE,
    ),
    Part(
        "choice, exact values of candidates",
        (("kernels/", "choose", "choose_exactly"),),
        operations=ACTIVE,
        bytes=PRE + WEIGHT + BATCH,
    ),
    Part("tokens left undecided", (("kernels/", "decide_in_full", None),)),
    Part("decode", (("kernels/", "combine", "forward"),), operations=ACTIVE, bytes=WEIGHT + BATCH),
    Part(
        "error and its gradient",
        (("elementwise.py", "forward", None), ("elementwise.py", "backward", None)),
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
        (("kernels/", "by_feature", "_weight_gradients"), ("kernels/slots.py", "weighted_rows", None)),
        operations=ACTIVE,
        bytes=WEIGHT + BATCH,
    ),
    Part("norms of the gradients", (("training/", "measure", None),), bytes=3 * WEIGHT),
    Part("AdamW, projection, unit norm", (("training/", "apply", None),), bytes=14 * WEIGHT),
)


def roofline(words: list[str]) -> int:
    """Where the time of a large TopK step goes, part by part, and how far each part is above its floor.

    One thread, seconds of CPU (which waiting does not add to), the trainer's step under Python's profiler; nothing is
    timed but the entry points of kernels. A part's floor is the larger of its floating-point operations over the peak
    of bfloat16 products, and its bytes (every array it needs read or written once) over the speed of a copy; both are
    measured in the same rounds, the best counts. `ratio`: the whole step, and the sum of the floors, over the encoder
    product alone.
    """
    options = parser(roofline, repeats=7)
    options.add_argument("--plot", action="store_true", help="draw the figure of docs/roofline.md")
    args = options.parse_args(words)
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
        from pages import FIGURES, roofline_figure

        roofline_figure(result, FIGURES / "roofline.png")
    return tell(result, args)


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
    if sum(seconds[part.name] for part in PARTS) > seconds["step"]:
        raise SystemExit("the parts take longer than the step: a function and what it calls are both counted")
    return seconds


def _inside(stats: dict[Any, Any], place: str, name: str, caller: str | None) -> tuple[int, float]:
    """How often a function was called, and the seconds in it and what it called."""
    calls, spent = 0, 0.0
    for (path, _, function), (_, all_calls, _, all_spent, callers) in stats.items():
        if function != name or place not in Path(path).as_posix():
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


LARGE = {"d_in": 768, "d_sae": 12_288, "k": 32, "tokens": 2_048}
WIDE = LARGE | {"d_sae": 131_072}
CASES: dict[str, dict[str, Any]] = {
    "large": LARGE | {"dead": 0},
    "large_auxk": LARGE | {"dead": 0.1},
    "wide": WIDE | {"dead": 0, "limit_gib": 8},
    "wide_auxk": WIDE | {"dead": 0.1, "limit_gib": 8},
}
TINY = {"d_in": 64, "d_sae": 512, "k": 32, "tokens": 256, "dead": 0.1}
# The promise, in batches of pre-activations.
PRE_ACTIVATIONS = 1.5
MIB = 2**20


def memory(words: list[str]) -> int:
    """Peak memory of a TopK training step, beside what was promised for it.

    Each case trains in a process of its own. Counted is what the process holds at most while it takes its steps, less
    what it held before the autoencoder was made (Python, torch, compiled loops, the batches). The promise: at most
    parameters, gradients and AdamW's two moments, and 1.5 times the batch's pre-activations in bfloat16; where a limit
    is named, the whole process, with all that it imports and the making of the autoencoder, stays below it too. `ratio`
    is measured over promised. Linux only: the peak is read from /proc.
    """
    options = bare_parser(memory, repeats=None)
    options.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--worker", help=argparse.SUPPRESS)
    args = options.parse_args(words)
    if args.worker:
        print(json.dumps(_train(json.loads(args.worker), args.steps)))
        return 0
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("the peak of memory is read from /proc, which this system lacks; run on Linux")
    cases = {name: _case(CASES[name], args.steps) for name in args.only}
    for name, case in cases.items():
        whole = f", whole process {case['process_mib'] / 1024:.2f} GiB" + _of_limit(case["size"])
        print(f"{name:11s} {case['step_mib']:6.0f} MiB, promised {case['promised_mib']:6.0f}" + whole)
    result = {
        "ratio": {name: case["ratio"] for name, case in cases.items()},
        "cases": cases,
        "steps": args.steps,
        "ok": all(case["ok"] for case in cases.values()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    return tell(result, args)


def _of_limit(size: dict[str, Any]) -> str:
    return f" of {size['limit_gib']}" if "limit_gib" in size else ""


def _case(size: dict[str, Any], steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "memory", "--steps", str(steps), "--worker", json.dumps(size)]
    answer = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    held = _held_mib(size)
    promised = held["weights_gradients_moments"] + PRE_ACTIVATIONS * held["pre_activations"]
    limit = 1024 * size.get("limit_gib", float("inf"))
    case = {
        "ratio": round(answer["step_mib"] / promised, 3),
        "promised_mib": round(promised, 1),
        **answer,
        "beyond_weights_mib": round(answer["step_mib"] - held["weights_gradients_moments"], 1),
        "pre_activations_mib": held["pre_activations"],
        "size": size,
    }
    case["ok"] = case["ratio"] <= 1 and answer["process_mib"] <= limit
    return case


def _held_mib(size: dict[str, Any]) -> dict[str, float]:
    """What a step can't do without: four numbers for each parameter; and the batch's pre-activations in bfloat16."""
    parameters = 2 * size["d_in"] * size["d_sae"] + size["d_in"] + size["d_sae"]
    return {
        "weights_gradients_moments": 4 * 4 * parameters / MIB,
        "pre_activations": 2 * size["tokens"] * size["d_sae"] / MIB,
    }


def _train(size: dict[str, Any], steps: int) -> dict[str, Any]:
    """Peaks of this process, in MiB: of the steps alone, and of everything."""
    _steps(_trainee(TINY), TINY, _batches(TINY, 2))
    batches = _batches(size, steps)
    gc.collect()
    # What the compiler has freed must not pass for memory that the step needs none of.
    ctypes.CDLL(None).malloc_trim(0)
    before, highest = _status("VmRSS"), _status("VmHWM")
    trainee = _trainee(size)
    made = _status("VmHWM")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew from here
    _steps(trainee, size, batches)
    peak = _status("VmHWM")
    return {
        "step_mib": round(peak - before, 1),
        "process_mib": round(max(highest, made, peak), 1),
        "before_mib": round(before, 1),
    }


def _trainee(size: dict[str, Any]) -> Trainee:
    sae = build("topk", d_in=size["d_in"], d_sae=size["d_sae"], k=size["k"])
    return Trainee("topk", sae, "site", TrainingConfig(), steps=10**6, lr=1e-4, seed=0)


def _batches(size: dict[str, Any], count: int) -> list[SequenceBatch]:
    generator, shape = torch.Generator().manual_seed(0), (size["tokens"] // 128, 128)
    mask, zeros = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.int64)
    return [
        SequenceBatch(
            torch.randn(*shape, size["d_in"], generator=generator),
            *(mask, zeros, mask.cumsum(1) - 1, zeros),
            ("noise",) * shape[0],
        )
        for _ in range(count)
    ]


def _steps(trainee: Trainee, size: dict[str, Any], batches: list[SequenceBatch]) -> None:
    every = torch.arange(size["d_sae"])
    dead = every % round(1 / size["dead"]) == 0 if size["dead"] else torch.zeros(size["d_sae"], dtype=torch.bool)
    for batch in batches:
        trainee.dead.since_fired.zero_().masked_fill_(dead, 10**9)
        trainee.step(batch)
        assert trainee.stopped is None


def _status(name: str) -> float:
    """A figure of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":"))) / 1024


if __name__ == "__main__":
    sys.exit(command_line((roofline, memory)))
