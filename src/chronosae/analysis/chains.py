"""Chains of features read off lagged edges: disjoint ones from many sources, or the strongest from one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import bellman_ford, dijkstra

from chronosae.analysis.edge_set import EdgeSet
from chronosae.analysis.flow import check_ends


@dataclass(frozen=True)
class Chain:
    """Features along a path, the summed lag, and the product of the weights."""

    features: tuple[int, ...]
    lag: int
    weight: float

    def pairs(self) -> list[tuple[int, int]]:
        """Its edges as (source, target)."""
        return list(pairwise(self.features))

    @property
    def interior(self) -> tuple[int, ...]:
        """The features between its ends."""
        return self.features[1:-1]


def strongest_path(edges: EdgeSet, source: int, sink: int) -> Chain | None:
    """The path with the largest product of weights (Dijkstra on -log w); None where there is none."""
    check_ends(edges, [source], [sink])
    best = edges.best_lags()
    graph = coo_array((_costs(best), (best.source.numpy(), best.target.numpy())), shape=(edges.d_sae,) * 2).tocsr()
    _, before = dijkstra(graph, indices=source, return_predecessors=True)
    path = [sink]
    while path[-1] != source:
        if before[path[-1]] < 0:
            return None
        path.append(int(before[path[-1]]))
    return _chain(path[::-1], best)


def disjoint_chains(edges: EdgeSet, sources: Sequence[int], sinks: Sequence[int]) -> list[Chain]:
    """As many paths from sources to sinks as can share no feature and, among those, the ones of largest product.

    Node-split unit-capacity maximum flow (every feature v is v_in -> v_out with capacity 1); ties are broken by
    successive shortest paths at cost -log w, which never trades a path for a lower cost. That chains share no feature
    is an assumption; where it is wrong use `max_flow`.

    Raises:
        UserError: sources or sinks that are empty, shared or outside the dictionary.
    """
    check_ends(edges, sources, sinks)
    best = edges.best_lags()
    arcs = _split(best, sources, sinks)
    used = np.zeros(len(arcs.tail), dtype=bool)
    while (path := _augmenting(arcs, used)) is not None:
        used[path] ^= True
    return _paths(best, used[: len(best)], sources)


@dataclass(frozen=True)
class _Arcs:
    """Unit-capacity arcs: the edges v_out -> u_in first, then v_in -> v_out, then those of super-source and -sink."""

    tail: np.ndarray
    head: np.ndarray
    cost: np.ndarray

    @property
    def start(self) -> int:
        return int(max(self.tail.max(), self.head.max())) - 1

    @property
    def end(self) -> int:
        return self.start + 1


def _split(edges: EdgeSet, sources: Sequence[int], sinks: Sequence[int]) -> _Arcs:
    tail, head, first, last = (np.asarray(each) for each in (edges.source, edges.target, sources, sinks))
    # Only features that take part get nodes: Bellman-Ford's time grows with all nodes there are.
    involved = np.unique(np.concatenate([tail, head, first, last]))
    n = len(involved)
    node = np.arange(n)
    tail, head, first, last = (np.searchsorted(involved, each) for each in (tail, head, first, last))
    start, end = np.full(len(first), 2 * n), np.full(len(last), 2 * n + 1)
    return _Arcs(
        tail=np.concatenate([tail + n, node, start, last + n]),
        head=np.concatenate([head, node + n, first, end]),
        cost=np.concatenate([_costs(edges), np.zeros(n + len(first) + len(last))]),
    )


def _augmenting(arcs: _Arcs, used: np.ndarray) -> np.ndarray | None:
    """Arcs whose use the cheapest augmenting path flips; None when start no longer reaches end."""
    # An arc in use can only be undone: its reverse, at minus its cost. No two arcs then join the same nodes.
    tail, head = np.where(used, arcs.head, arcs.tail), np.where(used, arcs.tail, arcs.head)
    cost = np.where(used, -arcs.cost, arcs.cost)
    size = arcs.end + 1
    graph = coo_array((cost, (tail, head)), shape=(size, size)).tocsr()
    _, before = bellman_ford(graph, indices=arcs.start, return_predecessors=True)
    if before[arcs.end] < 0:
        return None
    arc_of = {(int(a), int(b)): number for number, (a, b) in enumerate(zip(tail, head, strict=True))}
    path, node = [], arcs.end
    while node != arcs.start:
        path.append(arc_of[int(before[node]), node])
        node = int(before[node])
    return np.array(path)


def _paths(edges: EdgeSet, used: np.ndarray, sources: Sequence[int]) -> list[Chain]:
    chosen = np.flatnonzero(used)
    after = dict(zip(edges.source.numpy()[chosen].tolist(), edges.target.numpy()[chosen].tolist(), strict=True))
    chains: list[Chain] = []
    for source in sources:
        path = [source]
        while path[-1] in after:
            path.append(after[path[-1]])
        if len(path) > 1:
            chains.append(_chain(path, edges))
    return chains


def _chain(path: list[int], edges: EdgeSet) -> Chain:
    pairs = {(source, target): number for number, (source, target, _) in enumerate(edges.triples())}
    numbers = [pairs[pair] for pair in pairwise(path)]
    return Chain(
        features=tuple(path), lag=int(edges.lag[numbers].sum()), weight=float(edges.weight[numbers].double().prod())
    )


def _costs(edges: EdgeSet) -> np.ndarray:
    """-log w; a coefficient a little above 1 costs nothing."""
    return -np.log(np.clip(edges.weight.double().numpy(), 1e-12, 1.0))
