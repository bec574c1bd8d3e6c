"""Sparse probing against SAEBench's own functions, on the same pooled vectors.

    python benchmarks/eval_probing.py [--json] [--peer .parity/bin/python]

Both choose features, fit k-sparse probes and the full-width probe by SAEBench's protocol, for every class of one data
set and one autoencoder. SAEBench (`make parity`) runs in a process of its own; the two take turns, on one thread each,
and the figure is the ratio of their median processor times, so that other load on the machine doesn't count. Encoding
isn't measured: it is the autoencoder's own time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The promise: at least twice as fast on the whole. The exit code is 1 when it is broken.
LIMIT = 2.0
ROOT = Path(__file__).resolve().parents[1]
PARTS = ("sparse", "full")


def make_vectors(classes: int, rows: int, width: int, seed: int) -> dict[str, Tensor]:
    """Pooled codes as they look: sparse, non-negative; each class raises ten features a little."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for c in range(classes):
        x = torch.rand(rows, width, generator=generator)
        x *= torch.rand(rows, width, generator=generator) < 0.1
        x[:, 10 * c : 10 * c + 10] += 0.4 * torch.rand(rows, 10, generator=generator)
        found[str(c)] = x
    return found


def ours(train: dict[str, Tensor], test: dict[str, Tensor], ks: list[int]) -> dict[str, tuple[float, float]]:
    """Processor seconds and mean accuracy of each part."""
    from chronosae.evals.sparse_probing import SparseProbingOptions
    from chronosae.evals.sparse_probing.full_width import full_width_correct
    from chronosae.evals.sparse_probing.probing import sparse_scores
    from chronosae.evals.sparse_probing.tasks import make_tasks

    x, asked = torch.cat(list(train.values())), torch.cat(list(test.values()))
    y, z = (torch.repeat_interleave(torch.tensor([len(v) for v in part.values()])) for part in (train, test))
    options = SparseProbingOptions(protocol="saebench", k=ks)
    generator = torch.Generator().manual_seed(0)
    start = time.process_time()
    tasks = make_tasks(list(train), y, z, torch.zeros(len(y), dtype=torch.bool), generator)
    scores = sparse_scores(x, asked, tasks, options, seed=0)
    middle = time.process_time()
    full = full_width_correct(x, asked, tasks, "test", generator)
    end = time.process_time()
    sparse = torch.cat([right for values in scores.correct.values() for right in values])
    return {
        "sparse": (middle - start, float(sparse.double().mean())),
        "full": (end - middle, float(torch.cat(full).double().mean())),
    }


def theirs(train: dict[str, Tensor], test: dict[str, Tensor], ks: list[int]) -> dict[str, tuple[float, float]]:
    """The same by SAEBench's functions, called as its `run_eval_single_dataset` calls them."""
    from sae_bench.evals.sparse_probing.probe_training import (  # type: ignore[import-not-found]
        train_probe_on_activations,
    )

    torch.manual_seed(0)
    start = time.process_time()
    rates = [rate for k in ks for rate in train_probe_on_activations(train, test, select_top_k=k)[1].values()]
    middle = time.process_time()
    full = train_probe_on_activations(
        train, test, select_top_k=None, use_sklearn=False, batch_size=250, epochs=100, lr=1e-2
    )[1]
    end = time.process_time()
    return {
        "sparse": (middle - start, sum(rates) / len(rates)),
        "full": (end - middle, sum(full.values()) / len(full)),
    }


def serve(file: Path) -> None:
    """The peer's process: one measurement for every line that comes in."""
    work: dict[str, Any] = torch.load(file, weights_only=True)
    answers, sys.stdout = sys.stdout, sys.stderr  # SAEBench prints
    for line in sys.stdin:
        small = {name: x[:60] for name, x in work["train"].items()}
        parts = (small, small) if line.strip() == "warm" else (work["train"], work["test"])
        print(json.dumps(theirs(*parts, work["ks"])), file=answers, flush=True)


def start_peer(python: str, file: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"JAXTYPING_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [python, str(Path(__file__).resolve()), "--serve", str(file)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def ask(peer: subprocess.Popen[str], what: str) -> dict[str, tuple[float, float]]:
    assert peer.stdin is not None and peer.stdout is not None
    peer.stdin.write(what + "\n")
    peer.stdin.flush()
    answer = peer.stdout.readline()
    if not answer:
        sys.exit("the peer's process ended; is SAEBench installed there (make parity)?")
    return json.loads(answer)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    train = make_vectors(args.classes, args.train, args.d_sae, 0)
    test = make_vectors(args.classes, args.test, args.d_sae, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.pt"
        torch.save({"train": train, "test": test, "ks": args.k}, file)
        peer = start_peer(args.peer, file)
        try:
            ask(peer, "warm")
            ours({n: x[:60] for n, x in train.items()}, {n: x[:60] for n, x in test.items()}, args.k)
            pairs = [(ours(train, test, args.k), ask(peer, "go")) for _ in range(args.repeats)]
        finally:
            peer.kill()
    seconds = [{p: statistics.median(pair[i][p][0] for pair in pairs) for p in PARTS} for i in (0, 1)]
    totals = [statistics.median(sum(pair[i][p][0] for p in PARTS) for pair in pairs) for i in (0, 1)]
    return {
        "ratio": round(totals[1] / totals[0], 2),
        "ok": totals[1] / totals[0] >= LIMIT,
        "ratio_sparse": round(seconds[1]["sparse"] / seconds[0]["sparse"], 2),
        "ratio_full": round(seconds[1]["full"] / seconds[0]["full"], 2),
        "ours_s": {part: round(value, 3) for part, value in seconds[0].items()},
        "saebench_s": {part: round(value, 3) for part, value in seconds[1].items()},
        "accuracy": {part: [round(pairs[0][i][part][1], 4) for i in (0, 1)] for part in PARTS},
        "size": {key: getattr(args, key) for key in ("classes", "train", "test", "d_sae", "k", "repeats")},
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--train", type=int, default=1000, help="training texts a class")
    parser.add_argument("--test", type=int, default=250, help="test texts a class")
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", default=str(ROOT / ".parity/bin/python"), help="Python that has sae-bench 0.6.0")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.serve is not None:
        serve(args.serve)
        return
    if not Path(args.peer).is_file():
        sys.exit(f"{args.peer}: no such file; make parity makes the environment that holds SAEBench")
    result = compare(args)
    print(json.dumps(result) if args.json else f"SAEBench's time / ours: {result['ratio']} {result}")
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
