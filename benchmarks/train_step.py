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
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import torch

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers" / "bin" / "python"
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


class Worker:
    """A library's process."""

    def __init__(self, name: str, size: dict[str, Any], threads: int) -> None:
        ours = name in ("chronosae", "dense")
        environment = dict(os.environ, HF_HUB_OFFLINE="1", WANDB_MODE="disabled", OMP_NUM_THREADS=str(threads))
        if name == "dense":
            environment["CHRONOSAE_KERNELS"] = "torch"
        command = [sys.executable if ours else str(PEERS), str(HERE / "train_step_worker.py"), name, json.dumps(size)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.name = name

    def step(self, cpu: bool) -> float:
        """Seconds of one step, as the process itself measures them: by the clock, or of CPU."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            print(file=stdin, flush=True)
            return float(stdout.readline().split()[cpu])
        except (IndexError, ValueError, BrokenPipeError):
            raise SystemExit(f"{self.name} failed:\n{_last_lines(self.process.stderr)}") from None

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()


def measure(size: dict[str, Any], repeats: int, threads: int, cpu: bool) -> dict[str, Any]:
    """Steps of all libraries in turns."""
    workers = [Worker(name, size, threads) for name in LIBRARIES]
    try:
        for _ in range(WARMUP):
            for worker in workers:
                worker.step(cpu)
        rounds = [{worker.name: worker.step(cpu) for worker in workers} for _ in range(repeats)]
    finally:
        for worker in workers:
            worker.close()
    ratios = {w.name: sorted(r[w.name] / r["chronosae"] for r in rounds) for w in workers if w.name != "chronosae"}
    return {
        "ratio": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "spread": {name: [round(found[0], 3), round(found[-1], 3)] for name, found in ratios.items()},
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
    if not PEERS.is_file():
        raise SystemExit("the other libraries are not installed; run: make peers")
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
        "peers": _versions(),
        "torch": torch.__version__,
        "threads": args.threads,
        "measured": "seconds of CPU" if args.cpu else "seconds",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if args.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def _versions() -> dict[str, str]:
    names = "eai-sparsify", "sae-lens", "dictionary-learning", "torch"
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    return json.loads(subprocess.check_output([PEERS, "-c", code], text=True))


def _last_lines(stream: IO[str] | None) -> str:
    return "" if stream is None else "\n".join(stream.read().splitlines()[-8:])


if __name__ == "__main__":
    main()
