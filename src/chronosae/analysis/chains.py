"""Chains of features read off lagged edges, how much flows along them, and what cuts them off.

Chains are disjoint ones from many sources, or the strongest from one. Flow and cuts only make sense on edges that
passed every bar (`lagged_edges`): on raw scores every feature carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import bellman_ford, breadth_first_order, dijkstra, maximum_flow
from torch import Tensor

from chronosae.analysis.edges import EdgeSet
from chronosae.config import UserError

UNITS = 1000
"""Capacity of an edge of weight 1."""
FINEST = 10**5
"""Capacity of the costliest feature in a vertex cut."""
INT32 = 2**31 - 1


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


@dataclass(frozen=True)
class Flow:
    """A maximum flow from sources to sinks. `value` is a sum of bottleneck weights, not a probability."""

    value: float
    features: tuple[int, ...]
    """Features that carry flow."""
    edges: tuple[tuple[int, int], ...]
    """(source, target) of edges that carry flow."""
    cut: tuple[tuple[int, int], ...]
    """Edges of a minimum cut: without them no source reaches a sink."""


@dataclass(frozen=True)
class VertexCut:
    """The cheapest features whose removal leaves no path from a source to a sink, and their summed cost."""

    features: tuple[int, ...]
    cost: float


def max_flow(edges: EdgeSet, sources: Sequence[int], sinks: Sequence[int]) -> Flow:
    """Maximum flow with capacity round(1000 w) on each pair's strongest edge.

    Raises:
        UserError: sources or sinks that are empty, shared or outside the dictionary.
    """
    check_ends(edges, sources, sinks)
    best = edges.best_lags()
    tail, head = best.source.numpy().copy(), best.target.numpy().copy()
    capacity = np.rint(UNITS * best.weight.double().numpy()).astype(np.int64)
    start, end = edges.d_sae, edges.d_sae + 1
    carried, reached = _solve(tail, head, capacity, sources, sinks, start, end)
    flows = carried[tail, head]
    on = [(int(j), int(i)) for j, i, f in zip(tail, head, flows, strict=True) if f > 0]
    cut = [(int(j), int(i)) for j, i in zip(tail, head, strict=True) if reached[j] and not reached[i]]
    features = sorted({feature for pair in on for feature in pair})
    value = float(carried[[start]].sum()) / UNITS
    return Flow(value=value, features=tuple(features), edges=tuple(on), cut=tuple(cut))


def vertex_cut(
    edges: EdgeSet, sources: Sequence[int], sinks: Sequence[int], cost: Float[Tensor, " d_sae"]
) -> VertexCut:
    """Minimum vertex cut; sources and sinks themselves cannot be cut.

    Args:
        cost: non-negative price of losing each feature, e.g. how much it is used on text to be retained. Costs are
            resolved to one part in 10^5 of the highest.

    Raises:
        UserError: bad sources or sinks, a negative or non-finite cost, or an edge straight from a source to a sink.
    """
    check_ends(edges, sources, sinks)
    if len(cost) != edges.d_sae or not bool(((cost >= 0) & cost.isfinite()).all()):
        raise UserError(f"vertex_cut needs {edges.d_sae} finite, non-negative costs, one a feature")
    direct = [(j, i) for j, i, _ in edges.triples() if j in set(sources) and i in set(sinks)]
    if direct:
        raise UserError(f"source {direct[0][0]} has an edge to sink {direct[0][1]}: no features lie between to be cut")
    # Feature v becomes v_in -> v_out with its cost as capacity; edges are never the bottleneck.
    n, price = edges.d_sae, cost.double().numpy()
    finest = min(FINEST, INT32 // (2 * n + 2) - 1)
    inner = np.rint(price / max(price.max(), 1e-300) * finest).astype(np.int64) + (price > 0)
    unlimited = inner.sum() + 1
    inner[[*sources, *sinks]] = unlimited
    best = edges.best_lags()
    tail = np.concatenate([np.arange(n), best.source.numpy() + n])
    head = np.concatenate([np.arange(n) + n, best.target.numpy()])
    capacity = np.concatenate([inner, np.full(len(best), unlimited)])
    _, reached = _solve(tail, head, capacity, sources, [sink + n for sink in sinks], 2 * n, 2 * n + 1)
    features = [v for v in range(n) if reached[v] and not reached[v + n]]
    return VertexCut(features=tuple(features), cost=float(price[features].sum()))


def check_ends(edges: EdgeSet, sources: Sequence[int], sinks: Sequence[int]) -> None:
    """Sources and sinks are features, some of each, none both."""
    ends = [*sources, *sinks]
    if not sources or not sinks or set(sources) & set(sinks):
        raise UserError("chains need at least one source and one sink, and no feature that is both")
    if min(ends) < 0 or max(ends) >= edges.d_sae:
        raise UserError(f"sources and sinks are features 0 to {edges.d_sae - 1}; got {min(ends)} to {max(ends)}")


def _solve(
    tail: np.ndarray,
    head: np.ndarray,
    capacity: np.ndarray,
    sources: Sequence[int],
    sinks: Sequence[int],
    start: int,
    end: int,
) -> tuple[csr_array, np.ndarray]:
    """The flow of a super-source `start` to a super-sink `end`, and which nodes `start` still reaches beside it."""
    unlimited = min(int(capacity.sum()) + 1, INT32)
    tail = np.concatenate([tail, np.full(len(sources), start), np.asarray(sinks)])
    head = np.concatenate([head, np.asarray(sources), np.full(len(sinks), end)])
    capacity = np.concatenate([capacity, np.full(len(sources) + len(sinks), unlimited)]).astype(np.int32)
    graph = coo_array((capacity, (tail, head)), shape=(end + 1, end + 1)).tocsr()
    flow = csr_array(maximum_flow(graph, start, end).flow)
    residual = csr_array(graph.astype(np.int64) - flow.astype(np.int64))
    residual.eliminate_zeros()
    reached = np.zeros(end + 1, dtype=bool)
    reached[breadth_first_order(residual, start, return_predecessors=False)] = True
    return flow, reached
