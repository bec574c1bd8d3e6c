"""Are planted lagged edges and chains found on the codes of a trained TopK autoencoder, and none where none are?

python benchmarks/causal_edges.py [--out results/planted/causal-edges.json] [--seeds 5] [--json]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch

from chronosae.analysis import (
    Chain,
    EdgeSet,
    LaggedCounts,
    disjoint_chains,
    lagged_edges,
    shift_features,
    shuffle_time,
    surprise_edges,
)
from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.objectives import TemporalCorrelationTracker
from chronosae.planted import HELDOUT_FIRST, PLANTED, Planted, generate
from chronosae.planted.data import token_order
from chronosae.planted.scores import match
from chronosae.presets import build

CHAINS, LINKS = 8, 3
"""The first planted edges are eight chains of four features."""
STEPS, TOKENS, LR = 1300, 768, 3e-3
Triple = tuple[int, int, int]
"""Source, target, lag."""


@cache
def world(preset: str, seed: int, sequences: int = 400) -> Planted:
    """51,200 tokens by default; every seed has a dictionary and edges of its own. Not what an autoencoder learns on."""
    spec = PLANTED[preset].model_copy(update={"dictionary_seed": seed})
    return generate(spec, sequences, seed, first=HELDOUT_FIRST)


def trained(preset: str, seed: int) -> Autoencoder:
    """`topk` with k = mean L0, on 131,072 tokens; the learning rate falls over the last 30 % of the steps.

    All seeds begin with the same weights.
    """
    spec = PLANTED[preset].model_copy(update={"dictionary_seed": seed})
    data = generate(spec, 1024, seed)
    acts, generator = data.acts.flatten(0, 1), torch.Generator().manual_seed(seed)
    sae = build("topk", d_in=spec.d_in, d_sae=spec.n_features, k=round(data.mean_l0()))
    sae.initialise_bias(acts.mean(0))
    optimiser = torch.optim.Adam(sae.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (STEPS - step) / (0.3 * STEPS)))
    for _ in range(STEPS):
        batch = acts[torch.randint(len(acts), (TOKENS,), generator=generator)]
        loss = (sae(batch) - batch).pow(2).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        sae.project_decoder_gradient()
        optimiser.step()
        schedule.step()
        sae.constrain_decoder()
    return sae.eval()


def counted(codes: Codes, data: Planted, window: int = 4) -> LaggedCounts:
    """Lagged co-occurrence over all of `data`."""
    counts = LaggedCounts(codes.d_sae, window)
    counts.update(codes, data.mask, data.doc_ids)
    return counts


def part(codes: SparseCodes, rows: slice) -> SparseCodes:
    """Codes of some sequences."""
    return SparseCodes(values=codes.values[rows], indices=codes.indices[rows], n_features=codes.d_sae, scale=None)


def sketched(codes: SparseCodes, data: Planted, cells: int) -> EdgeSet:
    """Edges from the tracker's bounded sketch, fed in twenty steps."""
    tracker = TemporalCorrelationTracker(codes.d_sae, 4, sample_tokens=None, cells=cells)
    size = len(data.mask) // 20
    for step in range(20):
        rows = slice(step * size, (step + 1) * size)
        if step == 10:
            tracker.measure()
        tracker.update(part(codes, rows), data.mask[rows], data.doc_ids[rows], step=step)
    return lagged_edges(tracker)


@dataclass(frozen=True)
class Score:
    """Precision among as many edges as are true, and precision and recall of the whole set."""

    at_true_count: float
    precision: float
    recall: float


def score(edges: EdgeSet, true: set[Triple], weight: float = 0.1) -> Score:
    """How many of the edges, strongest first, are true; the set is those of at least `weight`."""
    ranked = [triple in true for triple in edges.triples()][: len(true)]
    strong = [triple in true for triple in edges.above(weight).triples()]
    return Score(sum(ranked) / len(true), sum(strong) / max(len(strong), 1), sum(strong) / len(true))


def planted_chains(true: Sequence[Triple]) -> list[list[int]]:
    """The planted chains, each as its features in order."""
    links = true[: CHAINS * LINKS]
    return [[links[k][0], *(link[1] for link in links[k : k + LINKS])] for k in range(0, len(links), LINKS)]


def chain_f1(found: list[Chain], planted: list[list[int]]) -> tuple[float, float]:
    """F1 of interior features, and of links."""
    interior = ({v for chain in planted for v in chain[1:-1]}, {v for chain in found for v in chain.interior})
    links = (
        {pair for chain in planted for pair in pairwise(chain)},
        {pair for chain in found for pair in chain.pairs()},
    )
    return _f1(*interior), _f1(*links)


def _f1(true: set[Any], found: set[Any]) -> float:
    return 2 * len(true & found) / max(len(true) + len(found), 1)


def encoded(sae: Autoencoder, data: Planted) -> SparseCodes:
    """Codes of whole sequences, without gradient."""
    with torch.no_grad():
        codes = sae.encode(data.acts, data.mask)
    assert isinstance(codes, SparseCodes)
    return codes


def edge_study(seed: int) -> dict[str, float]:
    """Scores of one seed on `causal`; `null` and the like count edges declared where there are none.

    `shuffled_pairs` is the share of all ordered pairs and lags that are declared edges after tokens were exchanged over
    the whole data set.
    """
    data, sae = world("causal", seed), trained("causal", seed)
    codes = encoded(sae, data)
    matching = match(sae.W_dec.detach(), data.dictionary)
    latent, clear = matching.latent.tolist(), (matching.cosine > 0.9).tolist()
    true = [(latent[j], latent[i], lag) for j, i, lag in data.edges]
    recoverable = {edge for edge, (j, i, _) in zip(true, data.edges, strict=True) if clear[j] and clear[i]}
    counts = counted(codes, data)
    edges = lagged_edges(counts)
    strong = set(edges.above(0.1).triples())
    chains = planted_chains(true)
    interior, links = chain_f1(
        disjoint_chains(edges, [chain[0] for chain in chains], [chain[-1] for chain in chains]), chains
    )
    nulls = [null(codes, data.mask, data.doc_ids, seed=seed) for null in (shuffle_time, shift_features)]
    shuffled = data.rearranged(token_order(len(data.mask), data.mask.shape[1], "all", seed, 0))
    found = lagged_edges(counted(encoded(sae, shuffled), shuffled)).above(0.1)
    without = world("causal_no_edges", seed)
    return {
        **asdict(score(edges, set(true))),
        "recoverable_recall": len(strong & recoverable) / max(len(recoverable), 1),
        "surprise_at_true_count": score(surprise_edges(counts, len(true)), set(true)).at_true_count,
        "sketch_at_true_count": score(sketched(codes, data, 2**16), set(true)).at_true_count,
        "interior_f1": interior,
        "links_f1": links,
        "null_edges": float(max(len(lagged_edges(counted(null, data)).above(0.1)) for null in nulls)),
        "shuffled_pairs": len(found) / (codes.d_sae * (codes.d_sae - 1) * 4),
        "no_edges_edges": float(
            len(lagged_edges(counted(encoded(trained("causal_no_edges", seed), without), without)).above(0.1))
        ),
    }


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
    torch.set_num_threads(1)
    return edge_study(seed)


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
