"""Planted data sets by name."""

from chronosae.planted.spec import EdgeGroup, FeatureGroup, PlantedSpec

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
