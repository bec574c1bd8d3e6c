"""Targeted probe perturbation: does zeroing a class's features hurt the probe of this class and no other?"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.scr_tpp.effects import effects_for_class
from chronosae.evals.scr_tpp.measure import Logits, Measured, measure
from chronosae.evals.scr_tpp.options import AblationOptions
from chronosae.evals.scr_tpp.outcome import (
    chosen_features,
    data_sha256,
    flags,
    has_features,
    missing_data,
    saebench_config,
)
from chronosae.evals.scr_tpp.scores import accuracy, known, tpp_scores
from chronosae.evals.scr_tpp.summary import Scores, summarise
from chronosae.evals.scr_tpp.tasks import one_vs_rest
from chronosae.evals.workbench import Workbench


class TppOptions(AblationOptions):
    """Options of `evals.tpp`."""

    data: list[str] = Field(default=["world/subject"], min_length=1)
    """Texts with one label of two values or more: registered names, local files with `label`, hub sets."""


@EVALUATIONS.add
class TppEvaluation(TppOptions, Evaluation):
    """Targeted probe perturbation: what zeroing a class's features costs its own probe, and the others.

    SAEBench's `tpp`.
    """

    name = "tpp"
    eval_type_id = "tpp"

    def preflight(self, setting: Setting) -> list[Missing]:
        return missing_data(self.data, "evals.tpp.data")

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        sets = [self._measure(name, bench, saes) for name in self.data]
        return {name: _result(self, bench, sets, name, sae) for name, sae in saes.items()}

    def _measure(self, name: str, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
        train, test = (LABELLED.read(name, part, "evals.tpp.data") for part in ("train", "test"))
        classes = tuple(label for label in train.classes if label in test.classes)
        label = LABELLED.label(name)
        train_g, test_g = (bench.generator("tpp", label, part) for part in ("train", "test"))
        train_tasks = one_vs_rest(train, classes, self.train_size, train_g)
        test_tasks = one_vs_rest(test, classes, self.test_size, test_g)
        return measure("tpp", bench, self, saes, train_tasks, test_tasks, effects_for_class)


def metric_names(n: int) -> list[str]:
    """SAEBench's names."""
    return [f"tpp_threshold_{n}_{part}" for part in ("total_metric", "intended_diff_only", "unintended_diff_only")]


def _scores(options: TppOptions, name: str) -> Scores:
    def scores(data: Measured, logits: Logits, n: int, counts: torch.Tensor) -> dict[str, torch.Tensor]:
        counted = torch.ones(len(data.tasks), dtype=torch.bool)
        if options.protocol == "chronosae":
            counted = known(data.tasks, data.logits[name])
            if not (counted.any() and has_features(data, name)):
                return {}
        found = tpp_scores(data.tasks, logits, n, counts)
        intended, unintended = (part[:, counted].mean(1) for part in found)
        return dict(zip(metric_names(n), (intended - unintended, intended, unintended), strict=True))

    return scores


def _result(options: TppOptions, bench: Workbench, sets: Sequence[Measured], name: str, sae: Autoencoder) -> EvalResult:
    seed = bench.generator("tpp", "resampling").initial_seed()
    found = summarise(sets, name, options.ns, metric_names, _scores(options, name), seed)
    return EvalResult(
        metrics={"tpp_metrics": found.metrics},
        eval_config=saebench_config(options, options.data, bench, perform_scr=False),
        data_sha256=data_sha256(sets),
        details=tuple({"dataset_name": data, **values} for data, values in found.by_set.items()),
        unstructured={data.tasks.name: _by_class(data, name) for data in sets},
        intervals=found.intervals,
        flags=tuple(flags(options, sets, name, sae, found)),
        block={
            "probe_seeds": found.by_seed,
            "accuracies": {data.tasks.name: _accuracies(data, name) for data in sets},
            "features_zeroed": chosen_features(sets, name),
        },
    )


def _by_class(data: Measured, name: str) -> dict[str, dict[str, float]]:
    """Class -> metrics of zeroing its features, means over seeds."""
    whole = torch.ones(1, len(data.tasks.texts), dtype=torch.float64)
    found: dict[str, dict[str, float]] = {task: {} for task in data.tasks.names}
    for n in data.logits[name][0].ablated:
        seeds = [tpp_scores(data.tasks, one, n, whole) for one in data.logits[name]]
        intended, unintended = (torch.stack([one[part][0] for one in seeds]).mean(0) for part in (0, 1))
        for i, task in enumerate(data.tasks.names):
            values = (intended[i] - unintended[i], intended[i], unintended[i])
            found[task] |= dict(zip(metric_names(n), map(float, values), strict=True))
    return found


def _accuracies(data: Measured, name: str) -> dict[str, Any]:
    """Of each class's probe, nothing zeroed, in the mean over seeds."""
    whole = torch.ones(1, len(data.tasks.texts), dtype=torch.float64)
    seeds = [accuracy(one.clean.T, data.tasks.positive, data.tasks.weight, whole)[0] for one in data.logits[name]]
    return dict(zip(data.tasks.names, torch.stack(seeds).mean(0).tolist(), strict=True))
