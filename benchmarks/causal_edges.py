"""Edges and chains on the codes of trained TopK autoencoders, planted data, five seeds.

python benchmarks/causal_edges.py [--out results/planted/causal-edges.json] [--seeds 5] [--json]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/planted/causal-edges.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.workers) as pool:
        seeds = dict(zip(map(str, range(args.seeds)), pool.map(_study, range(args.seeds)), strict=True))
    names = list(next(iter(seeds.values())))
    summary = {name: _spread([study[name] for study in seeds.values()]) for name in names}
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU used"
    about = {"commit": commit, "torch": torch.__version__, "python": platform.python_version(), "machine": machine}
    result = {"about": about, "summary": summary, "seeds": seeds}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, found in summary.items():
        print(f"{name:24s} {found['mean']:.4f}   {found['least']:.4f} to {found['most']:.4f}")
    if args.json:
        print(json.dumps(result))


def _study(seed: int) -> dict[str, float]:
    import torch

    from chronosae.planted.edge_study import edge_study

    torch.set_num_threads(1)
    return edge_study(seed)


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
