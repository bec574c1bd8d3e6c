"""Scores from probes' logits, and one autoencoder's result: means over data sets and seeds, intervals, flags.

SCR: Marks et al. 2024 (arXiv 2403.19647); both as in SAEBench (arXiv 2503.09532).
"""

import hashlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.scr_tpp.data import (
    BIASED,
    FIRST,
    SECOND,
    AblationOptions,
    Protocol,
    ScrOptions,
    Tasks,
    TppOptions,
)
from chronosae.evals.scr_tpp.measure import Logits, Measured, Probed
from chronosae.evals.workbench import PASS_TOKENS, Workbench

DISPUTED = "disputed: SCR and TPP rank autoencoders unreliably (arXiv 2605.18229); don't compare autoencoders by them"
# Of the accuracy that a spurious correlation costs: below it there is nothing to give back.
SMALLEST_GAP = 0.001

Counts = Float[Tensor, "resamples rows"]
"""How often each text is drawn."""


class ScrScores(NamedTuple):
    """Share of the accuracy lost to the spurious label that zeroing its features gives back; NaN is undefined."""

    dir1: Float[Tensor, " resamples"]
    """The first label is asked for, features of the second are zeroed."""
    dir2: Float[Tensor, " resamples"]
    """The other way round."""
    metric: Float[Tensor, " resamples"]
    """Of the direction in which the biased probe was worse on all texts."""


class TppScores(NamedTuple):
    """Accuracy that zeroing the features of each class costs its own probe, and the other probes in the mean."""

    intended: Float[Tensor, "resamples tasks"]
    unintended: Float[Tensor, "resamples tasks"]


def accuracy(
    logits: Float[Tensor, "*several rows"],
    positive: Bool[Tensor, "*several rows"],
    weight: Float[Tensor, "*several rows"],
    counts: Counts,
) -> Float[Tensor, "resamples *several"]:
    """Weighted share of right decisions (logit above 0), float64, on each resample."""
    right = ((logits > 0) == positive) * weight
    total, mass = (torch.einsum("cr,...r->c...", counts, part.double()) for part in (right, weight))
    return total / mass


def scr_scores(tasks: Tasks, logits: Logits, n: int, counts: Counts, protocol: Protocol) -> ScrScores:
    """Scores with n features zeroed (Marks et al. 2024, arXiv 2403.19647; SAEBench, arXiv 2503.09532).

    (accuracy of the biased probe with the features zeroed - without) / (accuracy of an unbiased probe - without), on
    texts in which both labels are crossed.
    """
    ablated = logits.ablated[n]
    dir1 = _given_back(tasks, logits, ablated[SECOND], FIRST, counts, protocol)
    dir2 = _given_back(tasks, logits, ablated[FIRST], SECOND, counts, protocol)
    everything = torch.ones(1, counts.shape[1], dtype=torch.float64)
    # Rounded: as many texts right at other places is a tie, though sums of their weights differ in their last bits.
    first, second = (round(float(biased_accuracy(tasks, logits, asked, everything)), 9) for asked in (FIRST, SECOND))
    tie = torch.full_like(dir1, torch.nan) if protocol == "saebench" else (dir1 + dir2) / 2
    return ScrScores(dir1, dir2, dir1 if first < second else dir2 if second < first else tie)


def biased_accuracy(tasks: Tasks, logits: Logits, asked: int, counts: Counts) -> Float[Tensor, " resamples"]:
    """Of the biased probe, nothing zeroed, where the label `asked` is right."""
    return accuracy(logits.clean[:, BIASED], tasks.positive[asked], tasks.weight[asked], counts)


def _given_back(
    tasks: Tasks,
    logits: Logits,
    ablated: Float[Tensor, "rows tasks"],
    asked: int,
    counts: Counts,
    protocol: Protocol,
) -> Float[Tensor, " resamples"]:
    positive, weight = tasks.positive[asked], tasks.weight[asked]
    biased = biased_accuracy(tasks, logits, asked, counts)
    gap = accuracy(logits.clean[:, asked], positive, weight, counts) - biased
    gain = accuracy(ablated[:, BIASED], positive, weight, counts) - biased
    undefined = 0.0 if protocol == "saebench" else torch.nan
    return torch.where(gap < SMALLEST_GAP, undefined, gain / gap)


def tpp_scores(tasks: Tasks, logits: Logits, n: int, counts: Counts) -> TppScores:
    """Scores with n features of each class zeroed (SAEBench, arXiv 2503.09532)."""
    ablated = logits.ablated[n].mT
    positive, weight = tasks.positive.expand_as(ablated), tasks.weight.expand_as(ablated)
    clean = accuracy(logits.clean.T, tasks.positive, tasks.weight, counts)
    lost = clean.unsqueeze(1) - accuracy(ablated, positive, weight, counts)
    intended = lost.diagonal(dim1=1, dim2=2)
    return TppScores(intended, (lost.sum(2) - intended) / (len(tasks) - 1))


def known(tasks: Tasks, logits: tuple[Logits, ...]) -> Bool[Tensor, " tasks"]:
    """Tasks whose own probes, nothing zeroed, are above chance (one-sided p < 0.01, normal approximation)."""
    counts = torch.ones(1, len(tasks.texts), dtype=torch.float64)
    found = [accuracy(one.clean.T, tasks.positive, tasks.weight, counts)[0] for one in logits]
    spread = tasks.weight.square().sum(1).sqrt() / 2
    return torch.stack(found).mean(0) > 0.5 + 2.326 * spread


Names = Callable[[int], list[str]]
"""n -> names of the metrics."""
Scores = Callable[[Probed, Logits, int, Float[Tensor, "resamples rows"]], dict[str, Float[Tensor, " resamples"]]]
"""Data set, logits of one seed, n, resamples -> metrics by name, NaN where undefined."""


@dataclass(frozen=True)
class Summary:
    """Of one autoencoder. Undefined is None."""

    metrics: dict[str, float | None]
    """Means over data sets of means over seeds, of what is defined."""
    by_set: dict[str, dict[str, float | None]]
    by_seed: dict[str, dict[str, Any]]
    """Metric -> its value for each seed of the probes, and their standard deviation."""
    intervals: dict[str, Interval]
    undefined: list[dict[str, int]]
    """For each data set: metric -> in how many seeds it is undefined, where it is in any."""


def summarise(sets: Sequence[Probed], sae: str, ns: Sequence[int], names: Names, scores: Scores, seed: int) -> Summary:
    """All metrics of one autoencoder.

    Args:
        names: n -> names of the metrics that `scores` gives for it.
        seed: of the resampling.
    """
    found: dict[str, list[list[float]]] = {name: [] for n in ns for name in names(n)}
    intervals = {}
    for n in ns:
        for data in sets:
            whole = torch.ones(1, len(data.tasks.texts), dtype=torch.float64)
            seeds = [scores(data, one, n, whole) if n in one.ablated else {} for one in data.logits[sae]]
            for name in names(n):
                found[name].append([float(values.get(name, torch.nan)) for values in seeds])
        for name in names(n):
            interval = _interval(sets, sae, n, name, scores, found[name], seed)
            if interval is not None:
                intervals[name] = interval
    return Summary(
        metrics={name: _mean([_mean(seeds) for seeds in values]) for name, values in found.items()},
        by_set={
            data.tasks.name: {name: _mean(values[i]) for name, values in found.items()} for i, data in enumerate(sets)
        },
        by_seed={name: _spread(values) for name, values in found.items()},
        intervals=intervals,
        undefined=[
            {name: n for name, values in found.items() if (n := sum(value != value for value in values[i]))}
            for i in range(len(sets))
        ],
    )


def _interval(
    sets: Sequence[Probed], sae: str, n: int, name: str, scores: Scores, values: list[list[float]], seed: int
) -> Interval | None:
    """Over resampled test texts of all data sets; a data set or seed that is undefined on all texts stays out."""
    shares = _shares(values)
    sizes = [int(data.tasks.groups.max()) + 1 for data in sets]

    def statistic(counts: Float[Tensor, "resamples groups"]) -> Float[Tensor, " resamples"]:
        total = torch.zeros(len(counts), dtype=torch.float64)
        for i, (data, drawn) in enumerate(zip(sets, counts.split(sizes, 1), strict=True)):
            for share, one in zip(shares[i], data.logits[sae], strict=True):
                if share:
                    total += share * scores(data, one, n, drawn[:, data.tasks.groups])[name]
        return total

    return bootstrap(statistic, sum(sizes), seed) if any(map(any, shares)) else None


def _shares(values: list[list[float]]) -> list[list[float]]:
    """What each seed of each data set counts in the mean of means."""
    defined = [[value == value for value in seeds] for seeds in values]
    sets = sum(map(any, defined))
    return [[one / (sets * sum(seeds)) if one else 0.0 for one in seeds] for seeds in defined]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None and value == value]
    return statistics.fmean(defined) if defined else None


def _spread(values: list[list[float]]) -> dict[str, Any]:
    means = [_mean(seeds) for seeds in zip(*values, strict=True)]
    defined = [mean for mean in means if mean is not None]
    return {"values": means, "sd": statistics.stdev(defined) if len(defined) > 1 else None}


def report_scr(options: ScrOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """SCR's result of autoencoder `name`."""

    def scores(data: Probed, logits: Logits, n: int, counts: Counts) -> dict[str, Tensor]:
        ours = options.protocol == "chronosae"
        if ours and not (has_features(data, name) and known(data.tasks, data.logits[name])[:BIASED].all()):
            return {}
        found = scr_scores(data.tasks, logits, n, counts, options.protocol)
        return dict(zip(scr_names(n), (found.dir1, found.metric, found.dir2), strict=True))

    return _report(options, bench, measured, name, scr_names, scores, _scr_accuracies)


def report_tpp(options: TppOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """TPP's result of autoencoder `name`."""

    def scores(data: Probed, logits: Logits, n: int, counts: Counts) -> dict[str, Tensor]:
        counted = torch.ones(len(data.tasks), dtype=torch.bool)
        if options.protocol == "chronosae":
            counted = known(data.tasks, data.logits[name])
            if not (counted.any() and has_features(data, name)):
                return {}
        found = tpp_scores(data.tasks, logits, n, counts)
        intended, unintended = (part[:, counted].mean(1) for part in found)
        return dict(zip(tpp_names(n), (intended - unintended, intended, unintended), strict=True))

    found = _report(options, bench, measured, name, tpp_names, scores, _tpp_accuracies)
    return replace(found, unstructured={data.tasks.name: _by_class(data, name) for data in measured.sets})


def scr_names(n: int) -> list[str]:
    """SAEBench's names."""
    return [f"scr_dir1_threshold_{n}", f"scr_metric_threshold_{n}", f"scr_dir2_threshold_{n}"]


def tpp_names(n: int) -> list[str]:
    """SAEBench's names."""
    return [f"tpp_threshold_{n}_{part}" for part in ("total_metric", "intended_diff_only", "unintended_diff_only")]


def _report(
    options: ScrOptions | TppOptions,
    bench: Workbench,
    measured: Measured,
    name: str,
    names: Names,
    scores: Scores,
    accuracies: Callable[[Probed, str], dict[str, Any]],
) -> EvalResult:
    seed = bench.generator(options.name, "resampling").initial_seed()
    sets = measured.sets
    found = summarise(sets, name, options.ns, names, scores, seed)
    return EvalResult(
        metrics={f"{options.name}_metrics": found.metrics},
        eval_config=_saebench_config(options, bench),
        data_sha256=data_sha256(sets),
        details=tuple({"dataset_name": data, **values} for data, values in found.by_set.items()),
        intervals=found.intervals,
        flags=tuple(_flags(options, measured, name, found)),
        block={
            "probe_seeds": found.by_seed,
            "accuracies": {data.tasks.name: accuracies(data, name) for data in sets},
            "features_zeroed": chosen_features(sets, name),
        },
    )


def _saebench_config(options: ScrOptions | TppOptions, bench: Workbench) -> dict[str, Any]:
    """SAEBench's `eval_config`, its fields as this evaluation ran."""
    return {
        "random_seed": bench.seed,
        "dataset_names": list(options.data),
        "perform_scr": options.name == "scr",
        "early_stopping_patience": options.probe_epochs,
        "train_set_size": options.train_size,
        "test_set_size": options.test_size,
        "context_length": options.context,
        "probe_train_batch_size": options.probe_batch,
        "probe_test_batch_size": 500,
        "probe_epochs": options.probe_epochs,
        "probe_lr": options.probe_lr,
        "probe_l1_penalty": options.probe_l1,
        "sae_batch_size": max(1, PASS_TOKENS // options.context),
        "llm_batch_size": max(1, PASS_TOKENS // options.context),
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
        "lower_vram_usage": False,
        "model_name": bench.subject.name,
        "n_values": list(options.ns),
        "column1_vals_lookup": {},
    }


def _flags(options: AblationOptions, measured: Measured, name: str, found: Summary) -> Iterator[str]:
    """Everything a reader must know beside the numbers of one autoencoder."""
    yield DISPUTED
    width = measured.widths[name]
    above = [n for n in options.ns if n > width]
    if above:
        yield f"more_than_d_sae: no score for n = {', '.join(map(str, above))}, there are {width} features"
    yield from _about_sets(measured.sets, name)
    yield from _undefined(measured.sets, name, found)


def has_features(data: Probed, name: str) -> bool:
    """Some feature of this autoencoder has an effect on some probe."""
    return any(bool(chosen.any()) for one in data.logits[name] for chosen in one.chosen.values())


def _about_sets(sets: Sequence[Probed], name: str) -> Iterator[str]:
    for data in sets:
        tasks = data.tasks
        knows = known(tasks, data.logits[name])
        unknown = [task for task, yes in zip(tasks.names, knows.tolist(), strict=True) if not yes]
        if unknown:
            yield f"subject_does_not_know: {tasks.name}: probes on {', '.join(unknown)} are not above chance"
        if not has_features(data, name):
            yield f"no_feature_has_an_effect: {tasks.name}: nothing could be zeroed"
            continue
        short = [n for one in data.logits[name][:1] for n, chosen in one.chosen.items() if int(chosen.min()) < n]
        if short:
            yield f"fewer_features_than_n: {tasks.name}: n = {', '.join(map(str, short))}: not so many have an effect"


def _undefined(sets: Sequence[Probed], name: str, found: Summary) -> Iterator[str]:
    for data, missing in zip(sets, found.undefined, strict=True):
        seeds = data.logits[name]
        feasible = {n for one in seeds for n in one.ablated}
        gone = dict.fromkeys(
            f"{metric.split('_threshold_')[0]} ({n} of {len(seeds)} seeds)"
            for metric, n in missing.items()
            if int(metric.split("_threshold_")[1].split("_")[0]) in feasible
        )
        if gone:
            yield f"undefined: {data.tasks.name}: {', '.join(gone)}"


def data_sha256(sets: Sequence[Probed]) -> str:
    """Over the token rows and labels of all data sets."""
    digest = hashlib.sha256()
    for data in sets:
        digest.update(repr((data.tasks.name, data.tasks.names, data.hashes)).encode())
        digest.update(data.tasks.positive.numpy().tobytes())
    return digest.hexdigest()


def chosen_features(sets: Sequence[Probed], name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Data set -> n -> task -> how many features were zeroed, in the mean over seeds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for data in sets:
        seeds = data.logits[name]
        found[data.tasks.name] = {
            str(n): {
                task: sum(int(one.chosen[n][i]) for one in seeds) / len(seeds)
                for i, task in enumerate(data.tasks.names)
            }
            for n in seeds[0].chosen
        }
    return found


def _scr_accuracies(data: Probed, name: str) -> dict[str, Any]:
    """Means over seeds, nothing zeroed: of unbiased and biased probes where the labels are crossed."""
    tasks, seeds = data.tasks, data.logits[name]
    whole = torch.ones(1, len(tasks.texts), dtype=torch.float64)
    clean = torch.stack([accuracy(one.clean.T, tasks.positive, tasks.weight, whole)[0] for one in seeds]).mean(0)
    biased = [
        sum(float(biased_accuracy(tasks, one, asked, whole)) for one in seeds) / len(seeds) for asked in (FIRST, SECOND)
    ]
    return {
        tasks.names[asked]: {"unbiased_probe": float(clean[asked]), "biased_probe": biased[asked]}
        for asked in (FIRST, SECOND)
    }


def _by_class(data: Probed, name: str) -> dict[str, dict[str, float]]:
    """Class -> metrics of zeroing its features, means over seeds."""
    whole = torch.ones(1, len(data.tasks.texts), dtype=torch.float64)
    found: dict[str, dict[str, float]] = {task: {} for task in data.tasks.names}
    for n in data.logits[name][0].ablated:
        seeds = [tpp_scores(data.tasks, one, n, whole) for one in data.logits[name]]
        intended, unintended = (torch.stack([one[part][0] for one in seeds]).mean(0) for part in (0, 1))
        for i, task in enumerate(data.tasks.names):
            values = (intended[i] - unintended[i], intended[i], unintended[i])
            found[task] |= dict(zip(tpp_names(n), map(float, values), strict=True))
    return found


def _tpp_accuracies(data: Probed, name: str) -> dict[str, Any]:
    """Of each class's probe, nothing zeroed, in the mean over seeds."""
    whole = torch.ones(1, len(data.tasks.texts), dtype=torch.float64)
    seeds = [accuracy(one.clean.T, data.tasks.positive, data.tasks.weight, whole)[0] for one in data.logits[name]]
    return dict(zip(data.tasks.names, torch.stack(seeds).mean(0).tolist(), strict=True))
