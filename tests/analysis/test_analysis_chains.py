"""Chains and cuts against brute force on small random graphs."""

from itertools import chain as joined
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chronosae.analysis import EdgeSet, disjoint_chains, max_flow, strongest_path, vertex_cut
from chronosae.config import UserError

N = 7
SOURCES, SINKS = [0, 1], [5, 6]


def random_edges(seed: int, density: float = 0.3, d_sae: int = N) -> EdgeSet:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(d_sae, d_sae, generator=generator) < density
    source, target = torch.nonzero(on & ~torch.eye(d_sae, dtype=torch.bool), as_tuple=True)
    weight = torch.rand(len(source), generator=generator) * 0.9 + 0.06
    lag = torch.randint(1, 5, (len(source),), generator=generator)
    return EdgeSet(source, target, lag, weight, weight * 100, lag * 10, d_sae=d_sae)


def paths(edges: EdgeSet, source: int, sink: int, removed: frozenset[int] = frozenset()) -> list[tuple[int, ...]]:
    """Every path without a loop."""
    after = {v: [i for j, i, _ in edges.triples() if j == v and i not in removed] for v in range(edges.d_sae)}
    found, open_ = [], [(source,)]
    while open_:
        path = open_.pop()
        if path[-1] == sink:
            found.append(path)
        else:
            open_ += [(*path, i) for i in after[path[-1]] if i not in path]
    return found


def all_paths(edges: EdgeSet, removed: frozenset[int] = frozenset()) -> list[tuple[int, ...]]:
    return [path for j in SOURCES for i in SINKS for path in paths(edges, j, i, removed)]


def product(edges: EdgeSet, path: tuple[int, ...]) -> float:
    weight = {(j, i): w for (j, i, _), w in zip(edges.triples(), edges.weight.tolist(), strict=True)}
    total = 1.0
    for pair in pairwise(path):
        total *= weight[pair]
    return total


@given(st.integers(0, 500))
def test_the_strongest_path_has_the_largest_product_of_weights(seed):
    edges = random_edges(seed)
    every, found = paths(edges, 0, 6), strongest_path(edges, 0, 6)
    assert (found is None) == (not every)
    if found is not None:
        assert found.weight == pytest.approx(max(product(edges, path) for path in every), rel=1e-5)
        lags = {(j, i): lag for j, i, lag in edges.triples()}
        assert found.lag == sum(lags[pair] for pair in found.pairs())


@given(st.integers(0, 500))
def test_disjoint_chains_are_as_many_as_possible_and_then_the_strongest(seed):
    edges = random_edges(seed)
    found = disjoint_chains(edges, SOURCES, SINKS)
    single = [path for path in all_paths(edges) if product(edges, path) > 0]
    doubles = [(a, b) for a, b in combinations(single, 2) if not set(a) & set(b)]
    best = 2 if doubles else int(bool(single))
    assert len(found) == best
    assert len(set(joined(*(each.features for each in found)))) == sum(len(each.features) for each in found)
    if best:
        options = [product(edges, a) * product(edges, b) for a, b in doubles] or [product(edges, a) for a in single]
        reached = torch.tensor([each.weight for each in found]).prod()
        assert float(reached) == pytest.approx(max(options), rel=1e-5)


@given(st.integers(0, 500))
def test_the_cut_of_a_maximum_flow_separates_and_has_the_flow_s_value(seed):
    edges = random_edges(seed)
    flow = max_flow(edges, SOURCES, SINKS)
    weight = {(j, i): w for (j, i, _), w in zip(edges.triples(), edges.weight.tolist(), strict=True)}
    assert flow.value == pytest.approx(sum(round(1000 * weight[pair]) / 1000 for pair in flow.cut))
    keep = torch.tensor([(j, i) not in flow.cut for j, i, _ in edges.triples()], dtype=torch.bool)
    assert not all_paths(edges[keep])
    assert (flow.value > 0) == bool(all_paths(edges))
    assert set(flow.features) == set(joined(*flow.edges))


@given(st.integers(0, 500))
def test_the_vertex_cut_is_the_cheapest_of_all(seed):
    edges = random_edges(seed, density=0.4)
    direct = torch.tensor([j in SOURCES and i in SINKS for j, i, _ in edges.triples()], dtype=torch.bool)
    edges = edges[~direct]
    cost = torch.rand(N, generator=torch.Generator().manual_seed(seed)) + 0.1
    cost[2 + seed % 3] = 0
    found = vertex_cut(edges, SOURCES, SINKS, cost)
    assert not all_paths(edges, frozenset(found.features))
    between = [frozenset(each) for size in range(4) for each in combinations(range(2, 5), size)]
    cheapest = min(float(cost[list(each)].sum()) for each in between if not all_paths(edges, each))
    assert found.cost == pytest.approx(cheapest, abs=1e-3)


def test_a_direct_edge_cannot_be_cut_by_features_and_bad_ends_and_costs_are_named():
    edges = EdgeSet(*(torch.tensor([v]) for v in (0, 6, 1)), torch.tensor([0.5]), torch.ones(1), torch.tensor([9]), N)
    with pytest.raises(UserError, match="source 0 has an edge to sink 6"):
        vertex_cut(edges, SOURCES, SINKS, torch.ones(N))
    with pytest.raises(UserError, match="finite, non-negative costs"):
        vertex_cut(edges, SOURCES, SINKS, -torch.ones(N))
    with pytest.raises(UserError, match="no feature that is both"):
        max_flow(edges, [0, 1], [1])
    with pytest.raises(UserError, match="at least one source"):
        disjoint_chains(edges, [], [1])
    with pytest.raises(UserError, match="features 0 to 6"):
        strongest_path(edges, 0, N)


def test_no_edges_give_no_chains_and_no_flow():
    none = random_edges(0)[:0]
    assert disjoint_chains(none, SOURCES, SINKS) == [] and strongest_path(none, 0, 6) is None
    flow = max_flow(none, SOURCES, SINKS)
    assert (flow.value, flow.features, flow.cut) == (0.0, (), ())
    assert vertex_cut(none, SOURCES, SINKS, torch.ones(N)).features == ()


def test_a_large_graph_takes_seconds():
    edges = random_edges(0, density=0.002, d_sae=2000)
    heads, tails = list(range(8)), list(range(1992, 2000))
    assert len(disjoint_chains(edges, heads, tails)) == 8
