"""Maximum flow over lagged edges: which features carry, and what cuts them off.

Capacities only make sense on gated and pruned edges (`lagged_edges`): on raw scores every feature carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from chronosae.analysis.edge_set import EdgeSet
from chronosae.config import UserError

UNITS = 1000
"""Capacity of an edge of weight 1."""
FINEST = 10**5
"""Capacity of the costliest feature in a vertex cut."""
INT32 = 2**31 - 1


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
