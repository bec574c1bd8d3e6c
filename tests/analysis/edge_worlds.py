"""Planted codes with known edges, and scores of what was found in them."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

from chronosae.analysis import Chain, EdgeSet, LaggedCounts
from chronosae.autoencoders import Codes, SparseCodes
from chronosae.planted import HELDOUT_FIRST, PLANTED, Planted, generate

CHAINS, LINKS = 8, 3  # the first planted edges: eight chains of four features
Triple = tuple[int, int, int]


@cache
def world(preset: str, seed: int, sequences: int = 400) -> Planted:
    """51,200 tokens by default; every seed has a dictionary and edges of its own. Not what an SAE is trained on."""
    spec = PLANTED[preset].model_copy(update={"dictionary_seed": seed})
    return generate(spec, sequences, seed, first=HELDOUT_FIRST)


def counted(codes: Codes, data: Planted, window: int = 4) -> LaggedCounts:
    counts = LaggedCounts(codes.d_sae, window)
    counts.update(codes, data.mask, data.doc_ids)
    return counts


def part(codes: SparseCodes, rows: slice) -> SparseCodes:
    return SparseCodes(values=codes.values[rows], indices=codes.indices[rows], n_features=codes.d_sae, scale=None)


@dataclass(frozen=True)
class Score:
    """Precision among as many edges as are true, and precision and recall of the whole set."""

    at_true_count: float
    precision: float
    recall: float


def score(edges: EdgeSet, true: set[Triple], weight: float = 0.1) -> Score:
    ranked = [triple in true for triple in edges.triples()][: len(true)]
    strong = [triple in true for triple in edges.above(weight).triples()]
    return Score(sum(ranked) / len(true), sum(strong) / max(len(strong), 1), sum(strong) / len(true))


def planted_chains(true: list[Triple]) -> list[list[int]]:
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


def _f1(true: set, found: set) -> float:
    return 2 * len(true & found) / max(len(true) + len(found), 1)


def mean(values: list[float]) -> float:
    return float(torch.tensor(values).mean())
