"""Does each mechanism work where it should, and its control not? The comparisons, as data.

An arm is one autoencoder trained on one planted data set; a claim compares the scores of arms, seed by seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy import stats

from chronosae.planted import PLANTED, Shuffle

K = 7
"""Features active at each token of the small planted sets, on average; every arm gets as many."""
NOISE = {"kind": "gaussian", "level": 1.0}
_INPUT = {"placement": "input", "cosine_weight": 0.0}
_CROWDED = {"batch_sequences": 8}
"""Its sequences are twice as long."""
_MASKED = {"batch_sequences": 32}
"""Twice the usual batch: a mask's logit for a feature and a position sees one token in 64."""
_STEADY = {"k": 9, "consistency_weight": 0.5}
_TFA = {"n_heads": 4, "bottleneck_factor": 4}
_GROUPS = {"split": [0.2, 0.8], "group_weights": [0.2, 0.8]}


@dataclass(frozen=True)
class Arm:
    """One autoencoder on one data set."""

    data: str
    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shuffle: Shuffle = "none"
    noisy: bool = False
    """Trained on, and also scored on, inputs with `NOISE`, which holds as much energy as they do; targets are clean."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Where training differs from the usual recipe."""

    def all_options(self) -> dict[str, Any]:
        """The options, `k` and the corruption among them."""
        noise = {"corruption": NOISE} if self.noisy else {}
        return {"k": K, **noise, **self.options}

    def support_of(self) -> str | None:
        """The kind of planted feature whose support counts; None is all."""
        kind = "persistent" if self.data == "crowded" else self.data
        return kind if kind in PLANTED[self.data].kinds else None


def _twins(name: str, data: str, preset: str, options: Mapping[str, Any], *, noisy: bool = False) -> dict[str, Arm]:
    """An arm and its control, with tokens shuffled over the whole data set."""
    shuffles: dict[str, Shuffle] = {"": "none", " (shuffled)": "all"}
    return {name + suffix: Arm(data, preset, options, shuffle, noisy) for suffix, shuffle in shuffles.items()}


ARMS: dict[str, Arm] = {
    **_twins("topk", "persistent", "topk", {}),
    **_twins("feature", "persistent", "multiscale", {"cosine_weight": 0.0}),
    "topk (shuffled within)": Arm("persistent", "topk", shuffle="within"),
    "feature (shuffled within)": Arm("persistent", "multiscale", {"cosine_weight": 0.0}, shuffle="within"),
    **_twins("topk, noise", "persistent", "topk", {}, noisy=True),
    **_twins("feature, noise", "persistent", "multiscale", {"cosine_weight": 0.0}, noisy=True),
    **_twins("input, noise", "persistent", "multiscale", _INPUT, noisy=True),
    **_twins("input kernel 1, noise", "persistent", "multiscale", {**_INPUT, "kernel_size": 1}, noisy=True),
    "input": Arm("persistent", "multiscale", {**_INPUT, "denoise": False}),
    "crowded topk": Arm("crowded", "topk", {"k": 9}, recipe=_CROWDED),
    "crowded feature": Arm("crowded", "multiscale", {"k": 9, "cosine_weight": 0.0}, recipe=_CROWDED),
    "crowded feature + consistency": Arm("crowded", "chrono", _STEADY, recipe=_CROWDED),
    "crowded feature + consistency of all": Arm(
        "crowded", "consistency", {"k": 9, "consistency_weight": 0.2, "kernel": {"kind": "conv"}}, recipe=_CROWDED
    ),
    "crowded topk + consistency": Arm("crowded", "consistency", {**_STEADY, "by_persistence": True}, recipe=_CROWDED),
    "chrono": Arm("persistent", "chrono"),
    "batch_topk": Arm("persistent", "batch_topk"),
    "matryoshka": Arm("persistent", "matryoshka"),
    "tsae": Arm("persistent", "tsae"),
    "tsae (paper)": Arm("persistent", "tsae", {"form": "paper"}),
    "matryoshka of two": Arm("persistent", "matryoshka", _GROUPS),
    "matryoshka of two (equal)": Arm("persistent", "matryoshka", {"split": [0.2, 0.8]}),
    "tfa": Arm("persistent", "tfa", _TFA),
    "tfa (shuffled)": Arm("persistent", "tfa", _TFA, shuffle="all"),
    "batch_topk (shuffled)": Arm("persistent", "batch_topk", shuffle="all"),
    **_twins("lagged topk, noise", "lagged", "topk", {}, noisy=True),
    **_twins("lagged input, noise", "lagged", "multiscale", _INPUT, noisy=True),
    **_twins("lagged input kernel 1, noise", "lagged", "multiscale", {**_INPUT, "kernel_size": 1}, noisy=True),
    "slow topk": Arm("slow", "topk"),
    "slow chrono": Arm("slow", "chrono"),
    "iid topk": Arm("iid", "topk"),
    "iid chrono": Arm("iid", "chrono"),
    "iid feature + consistency of all": Arm(
        "iid", "consistency", {"consistency_weight": 0.05, "kernel": {"kind": "conv"}}
    ),
    "positional topk": Arm("positional", "topk", recipe=_MASKED),
    "positional soft": Arm("positional", "positional", {"mask": "soft", "context": 64}, recipe=_MASKED),
    "positional importance": Arm("positional", "positional", {"mask": "importance", "context": 64}, recipe=_MASKED),
    "positional hard": Arm("positional", "positional", {"mask": "hard", "context": 64}, recipe=_MASKED),
    "positional slices": Arm("positional", "positional", {"mask": "slices", "context": 64}, recipe=_MASKED),
}

Metric = Literal["fve", "fve_corrupted", "f1", "f1_corrupted", "smoothness", "position_mass", "nmse"]


@dataclass(frozen=True)
class Claim:
    """`metric` of `arm` minus that of `than` is at least `least` and at most `most`, for every seed unless said."""

    text: str
    metric: Metric
    arm: str
    than: str | None
    least: float = float("-inf")
    most: float = float("inf")
    relative: bool = False
    """The difference as a share of what `than` has."""
    on_average: bool = False
    """The mean over seeds is judged: where single seeds scatter as far as the bound is away, as a control's do."""

    def value(self, scores: Mapping[str, Mapping[str, float | None]]) -> float:
        """What is judged, from the scores of one seed."""
        have, other = scores[self.arm][self.metric], scores[self.than][self.metric] if self.than else 0.0
        assert have is not None and other is not None
        return (have - other) / other if self.relative else have - other

    def holds(self, values: Sequence[float]) -> bool:
        """The value of every seed is within bounds, or the mean of all with `on_average`."""
        judged = [sum(values) / len(values)] if self.on_average else values
        return all(self.least <= value <= self.most for value in judged)

    def holds_again(self, value: float, seen: Sequence[float]) -> bool:
        """One more seed is within bounds, or no further from those `seen` than 99 % of seeds are.

        Seeds scatter, and so does one seed on machines that add up in another order: a claim that every one of few
        seeds has met can just be missed by the next. The interval is Student's for one more draw of a normal variable.
        """
        far = float(stats.t.ppf(0.995, len(seen) - 1) * stats.tstd(seen)) * (1 + 1 / len(seen)) ** 0.5
        return self.holds([value]) or abs(value - sum(seen) / len(seen)) <= far


def _gains(
    text: str, arm: str, than: str, least: float, *, metric: Metric = "fve", on_average: bool = False
) -> list[Claim]:
    """A gain, and that it goes when tokens are shuffled over the whole data set."""
    return [
        Claim(text, metric, arm, than, least=least, on_average=on_average),
        Claim(
            f"{text}; gone when tokens are shuffled",
            metric,
            f"{arm} (shuffled)",
            f"{than} (shuffled)",
            most=0.01,
            on_average=True,
        ),
    ]


CLAIMS: dict[str, list[Claim]] = {
    "multiscale": [
        *_gains("feature kernels gain FVE", "feature", "topk", 0.015),
        # Single seeds scatter around 0.045 by 0.01.
        *_gains("feature kernels gain support F1", "feature", "topk", 0.03, metric="f1", on_average=True),
        *_gains("feature kernels gain more under noise", "feature, noise", "topk, noise", 0.03, metric="fve_corrupted"),
        *_gains("input mixing gains under noise", "input, noise", "topk, noise", 0.02, metric="fve_corrupted"),
        *_gains(
            "the gain is time's, not the projection's",
            "input, noise",
            "input kernel 1, noise",
            0.02,
            metric="fve_corrupted",
        ),
        *_gains(
            "input mixing gains on lagged features",
            "lagged input, noise",
            "lagged topk, noise",
            0.02,
            metric="fve_corrupted",
        ),
        *_gains(
            "that gain is time's too",
            "lagged input, noise",
            "lagged input kernel 1, noise",
            0.02,
            metric="fve_corrupted",
        ),
        Claim("without noise, input mixing gains nothing", "fve", "input", "topk", most=0.01),
    ],
    "consistency": [
        Claim("consistency gains support F1", "f1", "crowded feature + consistency", "crowded feature", least=0.02),
        Claim("at little cost", "fve", "crowded feature + consistency", "crowded feature", -0.02, relative=True),
        Claim(
            "asked of all features alike",
            "f1",
            "crowded feature + consistency of all",
            "crowded feature",
        ),
        Claim("at the cost", "fve", "crowded feature + consistency of all", "crowded feature", relative=True),
        Claim("on an encoder that can't look back it does less", "f1", "crowded topk + consistency", "crowded topk"),
    ],
    "chrono": [
        *[
            Claim(f"chrono beats {other} in {metric}", metric, "chrono", other, least=0.0)
            for other in ("topk", "batch_topk", "matryoshka", "tsae")
            for metric in ("fve", "f1")
        ],
        Claim("chrono beats topk on slow features in fve", "fve", "slow chrono", "slow topk", least=0.0),
        Claim("chrono beats topk on slow features in f1", "f1", "slow chrono", "slow topk", least=0.0),
        Claim("without persistence it equals TopK", "fve", "iid chrono", "iid topk", -0.01, 0.01, relative=True),
        Claim(
            "there, consistency of all features alike costs",
            "fve",
            "iid feature + consistency of all",
            "iid topk",
            relative=True,
        ),
    ],
    "positional": [
        Claim("the soft mask finds planted positions", "position_mass", "positional soft", None, least=0.9),
        Claim("so does the importance mask", "position_mass", "positional importance", None, least=0.9),
    ],
    "tsae": [
        Claim(
            "T-SAE's high-level codes are smoother", "smoothness", "tsae (paper)", "matryoshka of two (equal)", most=0.0
        ),
        Claim("at little cost", "fve", "tsae (paper)", "matryoshka of two (equal)", -0.02, relative=True),
        Claim("so are the release's", "smoothness", "tsae", "matryoshka of two", most=0.0),
        Claim("at little cost too", "fve", "tsae", "matryoshka of two", -0.02, relative=True),
    ],
    "tfa": [
        Claim("TFA reconstructs better at equal novel L0", "nmse", "tfa", "batch_topk", most=0.0),
        Claim("what is left of it when tokens are shuffled", "nmse", "tfa (shuffled)", "batch_topk (shuffled)"),
    ],
}


def arms_of(mechanism: str) -> list[str]:
    """The arms that a mechanism's claims need."""
    names = [name for claim in CLAIMS[mechanism] for name in (claim.than, claim.arm) if name]
    return list(dict.fromkeys(names))


def judge(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, list[dict[str, Any]]]:
    """Every claim whose arms are there: its value for each seed, and whether all are within bounds."""
    judged: dict[str, list[dict[str, Any]]] = {}
    for mechanism, claims in CLAIMS.items():
        for claim in claims:
            arms = [arm for arm in (claim.arm, claim.than) if arm]
            if any(arm not in scores for arm in arms):
                continue
            seeds = sorted(set.intersection(*(set(scores[arm]) for arm in arms)), key=int)
            values = [claim.value({arm: scores[arm][seed] for arm in arms}) for seed in seeds]
            judged.setdefault(mechanism, []).append(
                {"claim": claim.text, "metric": claim.metric, "values": values, "holds": claim.holds(values)}
            )
    return judged


def markdown(results: Mapping[str, Any]) -> str:
    """The judged claims and the scores of every arm, as two tables."""
    claims = ["| mechanism | claim | mean difference | seeds | bound | |", "|---|---|--:|--:|--:|---|"]
    for mechanism, judged in results["claims"].items():
        for claim, row in zip(CLAIMS[mechanism], judged, strict=True):
            values = row["values"]
            spread = f"{min(values):+.3f} to {max(values):+.3f}"
            mark = ("holds" if row["holds"] else "**fails**") if _bound(claim) != "reported" else ""
            about = f"{claim.text} ({claim.metric}{', relative' if claim.relative else ''})"
            claims.append(f"| {mechanism} | {about} | {_interval(values)} | {spread} | {_bound(claim)} | {mark} |")
    columns = ("fve", "fve_corrupted", "f1", "novel_l0", "mcc", "autocorrelation", "smoothness", "position_mass")
    arms = [f"| arm | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for arm, seeds in results["scores"].items():
        cells = []
        for column in columns:
            values = [scores[column] for scores in seeds.values()]
            cells.append("" if None in values else f"{sum(values) / len(values):.3f}")
        arms.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join([*claims, "", *arms])


def _bound(claim: Claim) -> str:
    low = f"≥ {claim.least:+g}" if claim.least > float("-inf") else ""
    high = f"≤ {claim.most:+g}" if claim.most < float("inf") else ""
    bound = " and ".join(filter(None, (low, high))) or "reported"
    return f"{bound} on average" if claim.on_average else bound


def _interval(values: list[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:+.3f} ±{half:.3f}"
