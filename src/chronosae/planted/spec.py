"""What a planted data set is made of, groups of features and edges between them, and the data sets by name."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from chronosae.config import Section

Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class FeatureGroup(Section):
    """Features that behave alike in time.

    Each is a two-state Markov chain: with probability `rho` a token keeps the state of the one before, otherwise the
    state is drawn afresh, so that the firing rate is `rate` and the lag-1 autocorrelation of the state is `rho`.
    """

    kind: str
    """Name of the group, unique within a spec."""
    n: Positive
    """Number of features."""
    rate: Probability
    """Probability of firing at a token, before edges; inside its topic or its band, for features that have one."""
    rho: Fraction = 0.0
    """Lag-1 autocorrelation of on and off; 0 is iid, 1 keeps one state for a whole document."""
    magnitude_rho: Fraction = 0.0
    """Lag-1 autocorrelation of the Gaussian g behind the magnitude `1 + |g|`."""
    topics: Annotated[int, Field(ge=0)] = 0
    """Number of topics that share the features; one topic is active at a time. 0: no topics."""
    topic_dwell: Annotated[float, Field(ge=1)] = 40.0
    """Mean number of tokens between two draws of the active topic."""
    rate_outside: Fraction = 0.0
    """Firing rate while another topic is active."""
    band: Probability | None = None
    """Share of the positions where a feature may fire: one random contiguous band each. Absent: everywhere."""

    @model_validator(mode="after")
    def _topics_fit(self) -> "FeatureGroup":
        if self.topics > self.n:
            raise ValueError(f"group {self.kind!r}: {self.topics} topics for {self.n} features")
        return self


class EdgeGroup(Section):
    """Edges source -> target with a lag: when the source fires at t, it makes the target fire at t + lag.

    Causes combine as a noisy-or (the target's own rate is one of them), and never act across documents.
    """

    shape: Literal["chain", "random", "pair", "echo", "shortcut"]
    """`chain`: disjoint chains of `length` features. `random`: any two features, no cycles. `pair`: disjoint pairs, a
    source of the first group in `among` and a target of the second. `echo`: a feature makes itself fire again.
    `shortcut`: first -> third feature of a chain (of the edges before), at the summed lag."""
    count: Positive
    """Number of chains (each has `length - 1` edges), or of edges."""
    among: tuple[str, ...] = ()
    """Groups whose features take part; all when empty. Shortcuts take their features from the chains."""
    lags: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 3, 4)
    """Each edge draws its lag from these; pairs and echoes take them in turn."""
    probability: Probability = 0.7
    """Probability that the source's firing makes the target fire."""
    length: Annotated[int, Field(ge=2)] = 4
    """Features in a chain."""
    copy_magnitude: bool = False
    """The target takes the source's magnitude, unless it fires by itself at the same token."""


class PlantedSpec(Section):
    """Planted activations: `x_t = sum_f z_{t,f} d_f (+ noise)`, d_f random unit vectors, z of groups and edges."""

    d_in: Positive
    """Width of the activations."""
    groups: Annotated[tuple[FeatureGroup, ...], Field(min_length=1)]
    """Features, in this order."""
    edges: tuple[EdgeGroup, ...] = ()
    """Edges between features."""
    pos: Positive = 128
    """Tokens in a sequence."""
    doc_length: Annotated[float, Field(ge=1)] | None = None
    """Mean tokens in a document (geometric); all state restarts where one begins. Absent: a document a sequence."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the Gaussian noise added to each coordinate of the activations."""
    dictionary_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the dictionary, the edges and the bands; samples have another."""

    @model_validator(mode="after")
    def _consistent(self) -> "PlantedSpec":
        kinds = [group.kind for group in self.groups]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"groups: each kind must be given once, got {', '.join(kinds)}")
        for edge in self.edges:
            if unknown := set(edge.among) - set(kinds):
                raise ValueError(f"edges.among: no group {sorted(unknown)[0]!r}; there are {', '.join(kinds)}")
            if max(edge.lags) >= self.pos:
                raise ValueError(f"edges.lags: {max(edge.lags)} does not fit in sequences of {self.pos} tokens")
            if edge.shape == "pair" and len(set(edge.among)) != 2:
                raise ValueError("edges.among: pairs need two groups, of the sources and of the targets")
            needed = {"chain": edge.count * edge.length, "pair": edge.count, "echo": edge.count}.get(edge.shape, 0)
            pools = (
                [self.members([kind]) for kind in edge.among] if edge.shape == "pair" else [self.members(edge.among)]
            )
            if needed > min(map(len, pools)):
                raise ValueError(f"edges: {edge.count} of shape {edge.shape!r} need {needed} features")
        return self

    @property
    def n_features(self) -> int:
        """Number of planted features."""
        return sum(group.n for group in self.groups)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of every feature."""
        return tuple(group.kind for group in self.groups for _ in range(group.n))

    def members(self, among: Sequence[str] = ()) -> list[int]:
        """The features of the groups named; of all groups when none is."""
        return [feature for feature, kind in enumerate(self.kinds) if not among or kind in among]


_RATE = 7 / 192  # seven of 192 features fire at a token
_POS = 64


def _small(*groups: FeatureGroup, edges: tuple[EdgeGroup, ...] = ()) -> PlantedSpec:
    """192 features in 48 dimensions: enough interference that one token alone does not tell which features fired."""
    return PlantedSpec(d_in=48, groups=groups, edges=edges, pos=_POS)


def _persistent(n: int) -> FeatureGroup:
    return FeatureGroup(kind="persistent", n=n, rate=_RATE, rho=0.95, magnitude_rho=0.99)


def _iid(n: int) -> FeatureGroup:
    return FeatureGroup(kind="iid", n=n, rate=_RATE)


def _positional(n: int) -> FeatureGroup:
    # Eight bands, so eight times the rate inside gives the same mean L0.
    return FeatureGroup(kind="positional", n=n, rate=8 * _RATE, band=1 / 8)


def _slow(n: int) -> FeatureGroup:
    return FeatureGroup(kind="slow", n=n, rate=_RATE, rho=0.995, magnitude_rho=0.98)


def _causal(*edges: EdgeGroup) -> PlantedSpec:
    rate = 0.034
    return PlantedSpec(
        d_in=64,
        groups=(
            FeatureGroup(kind="persistent", n=64, rate=rate, rho=0.8),
            FeatureGroup(kind="topic", n=64, rate=0.17, rate_outside=0.01, topics=8, topic_dwell=40.0),
            FeatureGroup(kind="iid", n=64, rate=rate),
            FeatureGroup(kind="chain", n=64, rate=rate),
        ),
        edges=edges,
    )


def _causal_edges(probability: float) -> tuple[EdgeGroup, ...]:
    return (
        EdgeGroup(shape="chain", count=8, among=("chain",), probability=probability),
        EdgeGroup(shape="random", count=40, probability=probability),
    )


PLANTED: dict[str, PlantedSpec] = {
    "persistent": _small(_persistent(96), _iid(96)),
    "crowded": PlantedSpec(
        d_in=48,
        groups=(
            FeatureGroup(kind="persistent", n=96, rate=9 / 192, rho=0.95, magnitude_rho=0.99),
            FeatureGroup(kind="iid", n=96, rate=9 / 192),
        ),
    ),
    "iid": _small(_iid(192)),
    "lagged": _small(
        FeatureGroup(kind="trigger", n=24, rate=_RATE),
        FeatureGroup(kind="partner", n=24, rate=0.005),
        # Each firing makes .9 more on average, so few of the firings come by themselves.
        FeatureGroup(kind="lagged", n=144, rate=_RATE / 8),
        edges=(
            EdgeGroup(
                shape="pair",
                count=24,
                among=("trigger", "partner"),
                lags=(1, 2, 4),
                probability=0.9,
                copy_magnitude=True,
            ),
            *(
                EdgeGroup(
                    shape="echo", count=144, among=("lagged",), lags=(lag,), probability=0.32, copy_magnitude=True
                )
                for lag in (1, 2, 4)
            ),
        ),
    ),
    "causal": _causal(*_causal_edges(0.7)),
    "causal_no_edges": _causal(),
    "causal_weak": _causal(*_causal_edges(0.3)),
    # Lags of 1 and 2 in the chains, so that a shortcut's summed lag is at most 4.
    "causal_shortcuts": _causal(
        EdgeGroup(shape="chain", count=8, among=("chain",), lags=(1, 2)),
        EdgeGroup(shape="random", count=40),
        EdgeGroup(shape="shortcut", count=8),
    ),
    "slow": _small(_slow(48), _iid(144)),
    "positional": _small(_positional(96), _iid(96)),
    "mixed": _small(
        _persistent(48),
        _slow(24),
        _positional(24),
        FeatureGroup(kind="trigger", n=24, rate=_RATE),
        FeatureGroup(kind="partner", n=24, rate=0.008),
        _iid(48),
        edges=(EdgeGroup(shape="pair", count=24, among=("trigger", "partner"), lags=(1, 2, 4)),),
    ),
}
"""`persistent`: half of the features persist (the main one). `crowded`: the same with nine active features a token, in
longer sequences. `iid`: the same marginals without persistence. `lagged`: most features fire again 1, 2 and 4 tokens
later, triggers make their partner fire. `causal`: topics, persistence and 64 edges, with
variants. `slow`: a quarter stays on for about a document. `positional`: half fire only in an eighth of the positions.
`mixed`: some of each."""
