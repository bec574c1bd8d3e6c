"""Time of a training step of a TopK autoencoder: ours against the libraries people use.

    python benchmarks/train_step.py [--json] [--repeats 9] [--only large small] [--threads 2]

Every library runs its own trainer's step in a process and environment of its own (`make peers`), on the same
activations, with Adam. Steps take turns, one process at a time; each ratio is the median over rounds of (library / ours
of that round), so above 1 we are faster. On a machine that other work shares, `--threads 1 --cpu` compares seconds of
CPU, which waiting does not add to. `dense` is our own step without the compiled kernels.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from typing import Any

import torch
from peers import HERE, PEERS, Worker, environment, python_of, ratio_and_spread, require_peers, versions

LARGE = {"d_in": 768, "d_sae": 12_288, "k": 32, "tokens": 2_048}
SMALL = {"d_in": 256, "d_sae": 4_096, "k": 32, "tokens": 4_096}
CASES: dict[str, dict[str, Any]] = {
    "large": LARGE | {"dead": 0},
    "large_auxk": LARGE | {"dead": 0.1},
    "small": SMALL | {"dead": 0},
    "small_auxk": SMALL | {"dead": 0.1},
}
# The promise: at least so many times as fast.
BARS = {
    "large": {"sparsify": 1.8, "saelens": 5.0, "dictionary_learning": 5.0},
    "large_auxk": {"sparsify": 2.2, "saelens": 5.0, "dictionary_learning": 5.0},
    "small": {"sparsify": 1.6, "saelens": 3.0, "dictionary_learning": 3.0},
    "small_auxk": {"sparsify": 1.6, "saelens": 3.0, "dictionary_learning": 3.0},
}
WARMUP = 2
LIBRARIES = "chronosae", "sparsify", "saelens", "dictionary_learning", "dense"


def start(name: str, size: dict[str, Any], threads: int) -> Worker:
    """A library's process."""
    ours = name in ("chronosae", "dense")
    variables = environment(threads, **({"CHRONOSAE_KERNELS": "torch"} if name == "dense" else {}))
    return Worker(name, [python_of(ours), HERE / "train_step_worker.py", name, json.dumps(size)], variables)


def measure(size: dict[str, Any], repeats: int, threads: int, cpu: bool) -> dict[str, Any]:
    """Steps of all libraries in turns."""
    workers = [start(name, size, threads) for name in LIBRARIES]
    try:
        for _ in range(WARMUP):
            for worker in workers:
                worker.ask()
        rounds = [{worker.name: worker.ask()[cpu] for worker in workers} for _ in range(repeats)]
    finally:
        for worker in workers:
            worker.close()
    peers = [w.name for w in workers if w.name != "chronosae"]
    return {
        **ratio_and_spread({name: [r[name] / r["chronosae"] for r in rounds] for name in peers}),
        "seconds": {w.name: round(statistics.median(r[w.name] for r in rounds), 4) for w in workers},
        "size": size,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every library")
    parser.add_argument("--cpu", action="store_true", help="compare seconds of CPU instead of the clock's")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    args = parser.parse_args()
    require_peers()
    cases = {}
    for name in args.only:
        cases[name] = case = measure(CASES[name], args.repeats, args.threads, args.cpu)
        case["bar"] = BARS[name]
        case["ok"] = all(case["ratio"][peer] >= bar for peer, bar in BARS[name].items())
        shown = "   ".join(f"{peer} {ratio:.2f} x" for peer, ratio in case["ratio"].items())
        print(f"{name:11s} ours {case['seconds']['chronosae'] * 1e3:5.0f} ms   {shown}", flush=True)
    result = {
        "ratio": {peer: next(iter(cases.values()))["ratio"][peer] for peer in BARS["large"]},
        "cases": cases,
        "repeats": args.repeats,
        "ok": all(case["ok"] for case in cases.values()),
        "peers": versions(PEERS, "eai-sparsify", "sae-lens", "dictionary-learning", "torch"),
        "torch": torch.__version__,
        "threads": args.threads,
        "measured": "seconds of CPU" if args.cpu else "seconds",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if args.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
