"""Removing edges that a path through a third feature explains (the data processing inequality, as in ARACNE)."""

from collections import defaultdict

import torch

from chronosae.analysis.edge_set import EdgeSet

TOLERANCE = 0.6


def prune_indirect(edges: EdgeSet, window: int, tolerance: float = TOLERANCE) -> EdgeSet:
    """Drop j -> i at lag l when its weight is below `tolerance` times what a third feature k carries.

    k lies between (j -> k at l1 < l, k -> i at l - l1) or causes both (k -> j at la, k -> i at la + l <= window); it
    carries the smaller of its two weights. All edges are judged against the edges given. At tolerance 1 real shortcuts
    beside a chain are lost; 0.6 keeps them.
    """
    weight = dict(zip(edges.triples(), edges.weight.tolist(), strict=True))
    after: dict[int, list[tuple[int, int]]] = defaultdict(list)
    before: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for source, target, lag in weight:
        after[source].append((target, lag))
        before[target].append((source, lag))

    def carried(source: int, target: int, lag: int) -> float:
        between = (
            min(weight[source, k, first], weight.get((k, target, lag - first), 0.0))
            for k, first in after[source]
            if first < lag
        )
        common = (
            min(weight[k, source, first], weight.get((k, target, first + lag), 0.0))
            for k, first in before[source]
            if first + lag <= window
        )
        return max([0.0, *between, *common])

    kept = [w >= tolerance * carried(*triple) for triple, w in weight.items()]
    return edges[torch.tensor(kept, dtype=torch.bool, device=edges.source.device)]
