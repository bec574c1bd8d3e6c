"""How planted features fire: a fixed part, and a random part for each sequence.

Fixed (`Ground`): dictionary, edges, bands; it depends on the spec and its dictionary seed. Random (`Samples`): which
features fire, when, how strongly; a pure function of (spec, seed, sequence number).
Shapes: N sequences, T positions, F features, E edges.
"""

from dataclasses import dataclass
from itertools import pairwise

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


_CHUNK = 32  # sequences at a time: keeps the working set near the processor's cache


@dataclass(frozen=True)
class Samples:
    """Active entries of sequences, in order of (sequence, position, feature), and what belongs to every token."""

    sequence: np.ndarray
    position: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    doc_ids: np.ndarray
    """[N, T]"""
    noise: np.ndarray
    """[N, T, d_in], or [N, T, 0] for a spec without noise."""


@dataclass(frozen=True)
class _Draws:
    """Raw random numbers of a chunk: uniform in [0, 1), but for `normal` and `noise`."""

    document: np.ndarray  # [N, T]
    topic_keep: np.ndarray  # [N, T, groups]
    topic: np.ndarray  # [N, T, groups]
    keep: np.ndarray  # [N, T, F]
    fresh: np.ndarray  # [N, T, F]
    normal: np.ndarray  # [N, T, F]
    edge: np.ndarray  # [N, T, E]
    noise: np.ndarray  # [N, T, d_in]


def sample(spec: PlantedSpec, ground: Ground, ids: range, seed: int) -> Samples:
    """Sequences number `ids` of the data set (spec, seed)."""
    parts: list[Samples] = []
    for start in range(0, len(ids), _CHUNK):
        draws = _draw(spec, len(ground.edges), ids[start : start + _CHUNK], seed)
        starts = _document_starts(spec, draws)
        values = _values(spec, ground, draws, starts)
        n, t, f = np.nonzero(values)
        doc_ids = np.cumsum(starts, axis=1) - 1
        parts.append(Samples(n + start, t, f, values[n, t, f], doc_ids, draws.noise))
    fields = ("sequence", "position", "feature", "value", "doc_ids", "noise")
    return Samples(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def _draw(spec: PlantedSpec, n_edges: int, ids: range, seed: int) -> _Draws:
    # Every sequence has its own generator: what a sequence holds can't depend on those drawn with it.
    T, F, G = spec.pos, spec.n_features, len(spec.groups)
    widths = {"document": 1, "topic_keep": G, "topic": G, "keep": F, "fresh": F, "edge": n_edges, "normal": F}
    widths["noise"] = spec.d_in if spec.noise else 0
    arrays = {name: np.empty((len(ids), T, width), dtype=np.float32) for name, width in widths.items()}
    for row, number in enumerate(ids):
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, number])))
        for name, array in arrays.items():
            draw = rng.standard_normal if name in ("normal", "noise") else rng.random
            draw(dtype=np.float32, out=array[row])
    return _Draws(document=arrays.pop("document")[..., 0], **arrays)


def _document_starts(spec: PlantedSpec, draws: _Draws) -> np.ndarray:
    starts = np.zeros(draws.document.shape, dtype=bool)
    if spec.doc_length is not None:
        starts = draws.document < 1 / spec.doc_length
    starts[:, 0] = True
    return starts


def _per_feature(spec: PlantedSpec, field: str) -> np.ndarray:
    return np.repeat([getattr(group, field) for group in spec.groups], [group.n for group in spec.groups]).astype("f4")


def _values(spec: PlantedSpec, ground: Ground, draws: _Draws, starts: np.ndarray) -> np.ndarray:
    on = draws.fresh < _rates(spec, draws, starts)
    on = _hold(on, draws.keep < _per_feature(spec, "rho"), starts)
    on &= ground.profile.T
    size = 1 + np.abs(_autoregress(draws.normal, _per_feature(spec, "magnitude_rho"), starts))
    if ground.edges:
        _fire_edges(ground, draws.edge, starts, on, size)
    return on * size


def _hold(fresh: np.ndarray, keep: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """s_t = s_{t-1} where `keep`, else fresh_t; fresh where a document starts."""
    state = fresh.copy()
    keep = keep & ~starts[..., None]
    for t in range(1, state.shape[1]):
        np.copyto(state[:, t], state[:, t - 1], where=keep[:, t])
    return state


def _rates(spec: PlantedSpec, draws: _Draws, starts: np.ndarray) -> np.ndarray:
    """Firing rate at a fresh draw: [F], or [N, T, F] where topics make it change."""
    rates = _per_feature(spec, "rate")
    if not any(group.topics for group in spec.groups):
        return rates
    rates = np.broadcast_to(rates, draws.fresh.shape).copy()
    bounds = pairwise(np.cumsum([0, *(group.n for group in spec.groups)]))
    for number, (group, (first, last)) in enumerate(zip(spec.groups, bounds, strict=True)):
        if group.topics:
            drawn = (draws.topic[..., number, None] * group.topics).astype(np.int64)
            active = _hold(drawn, draws.topic_keep[..., number, None] >= 1 / group.topic_dwell, starts)
            own = np.arange(group.n) * group.topics // group.n
            rates[..., first:last] = np.where(active == own, group.rate, group.rate_outside)
    return rates


def _autoregress(normal: np.ndarray, rho: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """g_t = rho g_{t-1} + sqrt(1 - rho^2) e_t, unit variance throughout; g_t = e_t where a document starts."""
    g, columns = normal, np.flatnonzero(rho)
    if not len(columns):
        return g
    slow, rho = g[..., columns], rho[columns]
    fade = np.sqrt(1 - rho**2)
    for t in range(1, slow.shape[1]):
        slow[:, t] = np.where(starts[:, t, None], slow[:, t], rho * slow[:, t - 1] + fade * slow[:, t])
    g = g.copy()
    g[..., columns] = slow
    return g


def _fire_edges(ground: Ground, draws: np.ndarray, starts: np.ndarray, on: np.ndarray, size: np.ndarray) -> None:
    """Adds to `on` what edges cause, in order of time, so that what they cause causes more; copies magnitudes."""
    source, target, lag = np.array(ground.edges).T
    open_ = draws < ground.probability
    document = np.cumsum(starts, axis=1)
    hits = np.zeros((len(lag), on.shape[2]), dtype=np.float32)
    hits[np.arange(len(lag)), target] = 1
    copied = np.flatnonzero(ground.copies)
    for t in range(1, on.shape[1]):
        before = np.maximum(t - lag, 0)
        same = (lag <= t) & (document[:, before] == document[:, t, None])
        fired = on[:, before, source] & open_[:, t] & same
        for e in copied[fired[:, copied].any(0)]:
            new = fired[:, e] & ~on[:, t, target[e]]
            size[new, t, target[e]] = size[new, before[e], source[e]]
        # A position band holds for what edges cause, too.
        on[:, t] |= (fired.astype(np.float32) @ hits > 0) & ground.profile[:, t]
