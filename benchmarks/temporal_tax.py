"""What the sequence-aware presets cost: time of a training step, as a multiple of the dense TopK step of the same size.

python benchmarks/temporal_tax.py [--json] [--d-in 768] [--d-sae 8192] [--k 32] [--repeats 9]

Steps of all presets take turns in one process; each ratio is the median over rounds of (preset / dense TopK of that
round). The dense step is TopK in plain torch, without compiled kernels; all others have them, `topk (sparse step)` too.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import build
from chronosae.config import TrainingConfig
from chronosae.kernels import dense_only
from chronosae.training import Trainee

DENSE = "topk"
PRESETS: dict[str, dict[str, Any]] = {
    DENSE: {},
    "topk (sparse step)": {},
    "multiscale": {},
    "multiscale (input)": {"placement": "input"},
    "consistency": {},
    "causal": {},
    "positional": {},
    "chrono": {},
}
BATCH, POS = 16, 128
# The promise, for each preset.
LIMIT = 1.6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    trainees = {name: _trainee(name, options, args) for name, options in PRESETS.items()}
    batch = _batch(args.d_in)
    for name, trainee in trainees.items():
        _seconds(name, trainee, batch)
    rounds = [{name: _seconds(name, trainee, batch) for name, trainee in trainees.items()} for _ in range(args.repeats)]
    ratios = {name: sorted(r[name] / r[DENSE] for r in rounds) for name in PRESETS}
    ratio = {name: statistics.median(found) for name, found in ratios.items()}
    seconds = {name: statistics.median(r[name] for r in rounds) for name in PRESETS}
    result = {
        "ratio": ratio,
        "spread": {name: [found[0], found[-1]] for name, found in ratios.items()},
        "seconds": seconds,
        "d_in": args.d_in,
        "d_sae": args.d_sae,
        "k": args.k,
        "tokens": BATCH * POS,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    result["ok"] = all(value <= LIMIT for value in ratio.values())
    for name in PRESETS:
        low, high = ratios[name][0], ratios[name][-1]
        print(f"{name:20s} {ratio[name]:5.2f} x dense topk ({low:.2f} to {high:.2f})   {seconds[name] * 1e3:7.0f} ms")
    if args.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def _kernels(name: str) -> AbstractContextManager[None]:
    return dense_only() if name == DENSE else nullcontext()


def _trainee(name: str, options: dict[str, Any], args: argparse.Namespace) -> Trainee:
    sae = build(name.split(" ")[0], d_in=args.d_in, d_sae=args.d_sae, k=args.k, **options)
    with _kernels(name):
        return Trainee(name, sae, "site", TrainingConfig(), steps=1000, lr=1e-4, seed=0)


def _batch(d_in: int) -> SequenceBatch:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, POS)
    return SequenceBatch(
        acts=torch.randn(*shape, d_in, generator=generator),
        mask=torch.ones(shape, dtype=torch.bool),
        tokens=torch.zeros(shape, dtype=torch.int64),
        positions=torch.arange(POS).expand(shape).contiguous(),
        doc_ids=torch.zeros(shape, dtype=torch.int64),
        source=("noise",) * BATCH,
    )


def _seconds(name: str, trainee: Trainee, batch: SequenceBatch) -> float:
    with _kernels(name):
        start = time.perf_counter()
        trainee.step(batch)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
