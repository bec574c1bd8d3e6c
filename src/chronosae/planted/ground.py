"""The fixed part of a planted data set: dictionary, edges, bands. Depends on the spec (and its dictionary seed)."""

from dataclasses import dataclass

import numpy as np

from chronosae.planted.spec import EdgeGroup, PlantedSpec

Edge = tuple[int, int, int]
"""(source, target, lag)."""


@dataclass(frozen=True)
class Ground:
    """Arrays over F features and E edges: what every sample of a spec shares."""

    dictionary: np.ndarray
    """[F, d_in] float32, unit rows."""
    profile: np.ndarray
    """[F, pos] bool: where a feature may fire."""
    edges: tuple[Edge, ...]
    probability: np.ndarray
    """[E] float32."""
    copies: np.ndarray
    """[E] bool: the target takes the source's magnitude."""


def plant(spec: PlantedSpec) -> Ground:
    """Dictionary, bands and edges of `spec`; each from its own random stream, so that adding edges moves no vector."""
    for_dictionary, for_bands, for_edges = (
        np.random.default_rng(child) for child in np.random.SeedSequence(spec.dictionary_seed).spawn(3)
    )
    dictionary = for_dictionary.standard_normal((spec.n_features, spec.d_in))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    planted = _edges(spec, for_edges)
    return Ground(
        dictionary=dictionary.astype(np.float32),
        profile=_profile(spec, for_bands),
        edges=tuple(edge for edge, _ in planted),
        probability=np.array([group.probability for _, group in planted], dtype=np.float32),
        copies=np.array([group.copy_magnitude for _, group in planted], dtype=bool),
    )


def _profile(spec: PlantedSpec, rng: np.random.Generator) -> np.ndarray:
    profile = np.ones((spec.n_features, spec.pos), dtype=bool)
    row = 0
    for group in spec.groups:
        if group.band is not None:
            width = max(1, round(group.band * spec.pos))
            starts = rng.integers(0, spec.pos - width + 1, size=group.n)[:, None]
            places = np.arange(spec.pos)
            profile[row : row + group.n] = (places >= starts) & (places < starts + width)
        row += group.n
    return profile


def _edges(spec: PlantedSpec, rng: np.random.Generator) -> list[tuple[Edge, EdgeGroup]]:
    # Chains and random edges run from low to high rank: no feature is its own remote cause.
    rank = rng.permutation(spec.n_features)
    planted: list[tuple[Edge, EdgeGroup]] = []
    chains: list[list[Edge]] = []
    for group in spec.edges:
        members = spec.members(group.among)
        if group.shape == "chain":
            chains += (new := _chains(group, members, rank, rng))
            edges = [edge for chain in new for edge in chain]
        elif group.shape == "shortcut":
            edges = _shortcuts(group, chains)
        elif group.shape == "random":
            taken = {frozenset(edge[:2]) for edge, _ in planted}
            edges = _random(group, members, rank, taken, rng)
        elif group.shape == "pair":
            edges = _pairs(group, spec, rng)
        else:
            chosen = rng.permutation(members)[: group.count].tolist()
            edges = [(f, f, group.lags[number % len(group.lags)]) for number, f in enumerate(chosen)]
        planted += [(edge, group) for edge in edges]
    return planted


def _chains(group: EdgeGroup, members: list[int], rank: np.ndarray, rng: np.random.Generator) -> list[list[Edge]]:
    chains: list[list[Edge]] = []
    for nodes in rng.permutation(members)[: group.count * group.length].reshape(group.count, group.length):
        ordered = nodes[np.argsort(rank[nodes])].tolist()
        lags = rng.choice(group.lags, len(ordered) - 1).tolist()
        chains.append(list(zip(ordered[:-1], ordered[1:], lags, strict=True)))
    return chains


def _pairs(group: EdgeGroup, spec: PlantedSpec, rng: np.random.Generator) -> list[Edge]:
    sources, targets = (rng.permutation(spec.members([kind]))[: group.count].tolist() for kind in group.among)
    lags = [group.lags[number % len(group.lags)] for number in range(group.count)]
    return list(zip(sources, targets, lags, strict=True))


def _shortcuts(group: EdgeGroup, chains: list[list[Edge]]) -> list[Edge]:
    long_enough = [chain for chain in chains if len(chain) >= 2]
    if len(long_enough) < group.count:
        raise ValueError(f"edges: {group.count} shortcuts need as many chains of at least 3 features before them")
    return [(a[0], b[1], a[2] + b[2]) for a, b, *_ in long_enough[: group.count]]


def _random(
    group: EdgeGroup, members: list[int], rank: np.ndarray, taken: set[frozenset[int]], rng: np.random.Generator
) -> list[Edge]:
    if group.count > len(members) * (len(members) - 1) // 4:
        raise ValueError(f"edges: {group.count} random edges are too many for {len(members)} features")
    edges: list[Edge] = []
    while len(edges) < group.count:
        a, b = rng.choice(members, 2, replace=False).tolist()
        lag = int(rng.choice(group.lags))
        if frozenset((a, b)) not in taken:
            taken.add(frozenset((a, b)))
            edges.append((a, b, lag) if rank[a] < rank[b] else (b, a, lag))
    return edges
