"""Peak memory of a TopK training step, beside what was promised for it.

    python benchmarks/memory.py [--json] [--only large wide] [--steps 3]

Each case trains in a process of its own. Counted is what the process holds at most while it takes its steps, less what
it held before the autoencoder was made (Python, torch, compiled loops, the batches). The promise: at most parameters,
gradients and AdamW's two moments, and 1.5 times the batch's pre-activations in bfloat16; where a limit is named, the
whole process, with all that it imports and the making of the autoencoder, stays below it too. `ratio` is measured over
promised. Linux only: the peak is read from /proc.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import build
from chronosae.config import TrainingConfig
from chronosae.training import Trainee

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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(_train(json.loads(args.worker), args.steps)))
        return
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
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    if args.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def _of_limit(size: dict[str, Any]) -> str:
    return f" of {size['limit_gib']}" if "limit_gib" in size else ""


def _case(size: dict[str, Any], steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--steps", str(steps), "--worker", json.dumps(size)]
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
    main()
