"""Trains arms of the mechanisms study in a process of its own, without the shape checker, and prints their scores.

python mechanism_arms.py STEPS SEEDS ARM ...
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import torch

from chronosae.planted.mechanisms import ARMS
from chronosae.planted.study import Recipe, run_arm


def run(job: tuple[str, int, int]) -> dict[str, float | None]:
    """Scores of one arm and seed."""
    arm, seed, steps = job
    torch.set_num_threads(1)
    return asdict(run_arm(ARMS[arm], seed=seed, recipe=Recipe(steps=steps), heldout_sequences=128))


if __name__ == "__main__":
    steps, seeds, arms = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    jobs = [(arm, seed, steps) for seed in range(seeds) for arm in arms]
    torch.set_num_threads(1)
    with ProcessPoolExecutor(2) as pool:
        done = list(pool.map(run, jobs))
    scores: dict[str, dict[str, dict[str, float | None]]] = {}
    for (arm, seed, _), result in zip(jobs, done, strict=True):
        scores.setdefault(arm, {})[str(seed)] = result
    print(json.dumps(scores))
