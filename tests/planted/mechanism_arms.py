"""Trains arms of the mechanisms study in a process of its own, without the shape checker, and prints their scores.

python mechanism_arms.py STEPS LR SEEDS ARM ...
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from mechanisms import ARMS, run_arm

from chronosae.planted.study import Recipe


def run(job: tuple[str, int, Recipe]) -> dict[str, float | None]:
    """Scores of one arm and seed."""
    arm, seed, recipe = job
    torch.set_num_threads(1)
    return asdict(run_arm(ARMS[arm], seed=seed, recipe=recipe, heldout_sequences=128))


if __name__ == "__main__":
    recipe = Recipe(steps=int(sys.argv[1]), lr=float(sys.argv[2]))
    seeds, arms = int(sys.argv[3]), sys.argv[4:]
    jobs = [(arm, seed, recipe) for seed in range(seeds) for arm in arms]
    torch.set_num_threads(1)
    with ProcessPoolExecutor(2) as pool:
        done = list(pool.map(run, jobs))
    scores: dict[str, dict[str, dict[str, float | None]]] = {}
    for (arm, seed, _), result in zip(jobs, done, strict=True):
        scores.setdefault(arm, {})[str(seed)] = result
    print(json.dumps(scores))
