"""Trains every arm of `mechanism_claims` on planted data and judges every claim.

python benchmarks/mechanisms.py [--out results/planted/mechanisms.json] [--seeds 5] [--steps 2500] [--only multiscale]

Arms already in the results file at the same recipe are kept, so an interrupted run goes on where it stopped; other
commits that it went on at are listed under `about.also`. After a change, remove the arms that it concerns.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from mechanism_claims import ARMS, CLAIMS, NOISE, Arm, arms_of, judge, markdown

from chronosae.autoencoders.parts.inputs import CORRUPTIONS
from chronosae.planted import PLANTED
from chronosae.planted.study import Recipe, Scores, heldout, score, train


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/planted/mechanisms.json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", choices=list(CLAIMS), help="mechanisms; all by default")
    parser.add_argument("--page", type=Path, help="write the tables between the markers of this page, train nothing")
    parser.add_argument("--json", action="store_true", help="print the judged claims as one JSON object")
    args = parser.parse_args()
    if args.page:
        _write_page(args.page, json.loads(args.out.read_text(encoding="utf-8")))
        return
    chosen = args.only or list(CLAIMS)
    arms = [*dict.fromkeys(arm for mechanism in chosen for arm in arms_of(mechanism))]
    if not args.only:
        arms = list(ARMS)
    results = _load(args.out, args.steps)
    jobs = [
        (arm, seed) for seed in range(args.seeds) for arm in arms if str(seed) not in results["scores"].get(arm, {})
    ]
    with ProcessPoolExecutor(args.workers) as pool:
        futures = {pool.submit(_run, arm, seed, args.steps): (arm, seed) for arm, seed in jobs}
        for done, future in enumerate(as_completed(futures), 1):
            arm, seed = futures[future]
            results["scores"].setdefault(arm, {})[str(seed)] = future.result()
            _save(results, args.out)
            print(f"{done}/{len(jobs)} {arm}, seed {seed}: FVE {future.result()['fve']:.4f}", file=sys.stderr)
    results["claims"] = judge(results["scores"])
    _save(results, args.out)
    print(json.dumps(results["claims"]) if args.json else _table(results["claims"]))


def run_arm(arm: Arm, *, seed: int, recipe: Recipe, heldout_sequences: int = 256) -> Scores:
    """Train and score one arm."""
    spec = PLANTED[arm.data]
    recipe = replace(recipe, **arm.recipe, shuffle=arm.shuffle)
    sae = train(spec, arm.preset, arm.all_options(), seed=seed, recipe=recipe)
    data = heldout(spec, heldout_sequences, seed, arm.shuffle)
    kind = arm.support_of()
    corruption = CORRUPTIONS.read(NOISE) if arm.noisy else None
    return score(sae, data, data.features(kind) if kind else None, corruption)


def _write_page(page: Path, results: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    before, rest = text.split("<!-- tables -->")
    after = rest.split("<!-- /tables -->")[1]
    page.write_text(f"{before}<!-- tables -->\n\n{markdown(results)}\n\n<!-- /tables -->{after}", encoding="utf-8")


def _run(arm: str, seed: int, steps: int) -> dict[str, float | None]:
    torch.set_num_threads(1)
    return asdict(run_arm(ARMS[arm], seed=seed, recipe=Recipe(steps=steps)))


def _load(path: Path, steps: int) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    if path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["steps"] == steps:
            if commit != results["about"]["commit"]:
                results["about"]["also"] = sorted({*results["about"].get("also", []), commit})
            return results
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU used"
    about = {"commit": commit, "torch": torch.__version__, "python": platform.python_version(), "machine": machine}
    return {"about": about, "steps": steps, "scores": {}, "claims": {}}


def _save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _table(claims: dict[str, list[dict[str, Any]]]) -> str:
    lines = []
    for mechanism, judged in claims.items():
        for claim in judged:
            values = " ".join(f"{value:+.4f}" for value in claim["values"])
            lines.append(
                f"{'holds' if claim['holds'] else 'FAILS'}  {mechanism}: {claim['claim']} ({claim['metric']}): {values}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
