"""Spurious correlation removal: does zeroing a few features take one of two entangled labels out of a probe?"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.scr_tpp.effects import effects_either_way
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
from chronosae.evals.scr_tpp.scores import accuracy, biased_accuracy, known, scr_scores
from chronosae.evals.scr_tpp.summary import Scores, summarise
from chronosae.evals.scr_tpp.tasks import BIASED, FIRST, SECOND, crossed_and_biased, unfit_for_scr
from chronosae.evals.workbench import Workbench


class ScrOptions(AblationOptions):
    """Options of `evals.scr`."""

    data: list[str] = Field(default=["world/subject_and_kind", "world/subject_and_setting"], min_length=1)
    """Texts with two labels of two values each: registered names, local files with `label` and `second_label`, hub
    sets. The first training text names the values of both labels that go together in the biased texts."""


@EVALUATIONS.add
class ScrEvaluation(ScrOptions, Evaluation):
    """Spurious correlation removal: accuracy that zeroing a few features gives back to a biased probe.

    SAEBench's `scr`.
    """

    name = "scr"
    eval_type_id = "scr"

    def preflight(self, setting: Setting) -> list[Missing]:
        return missing_data(self.data, "evals.scr.data", unfit_for_scr)

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        sets = [self._measure(name, bench, saes) for name in self.data]
        return {name: _result(self, bench, sets, name, sae) for name, sae in saes.items()}

    def _measure(self, name: str, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
        train, test = (LABELLED.read(name, part, "evals.scr.data") for part in ("train", "test"))
        positives = (train.labels[0], train.second[0] if train.second else "")
        label = LABELLED.label(name)
        train_g, test_g = (bench.generator("scr", label, part) for part in ("train", "test"))
        train_tasks = crossed_and_biased(train, positives, self.train_size, train_g)
        test_tasks = crossed_and_biased(test, positives, self.test_size, test_g)
        return measure("scr", bench, self, saes, train_tasks, test_tasks, effects_either_way)


def metric_names(n: int) -> list[str]:
    """SAEBench's names."""
    return [f"scr_dir1_threshold_{n}", f"scr_metric_threshold_{n}", f"scr_dir2_threshold_{n}"]


def _scores(options: ScrOptions, name: str) -> Scores:
    def scores(data: Measured, logits: Logits, n: int, counts: torch.Tensor) -> dict[str, torch.Tensor]:
        ours = options.protocol == "chronosae"
        if ours and not (has_features(data, name) and known(data.tasks, data.logits[name])[:BIASED].all()):
            return {}
        found = scr_scores(data.tasks, logits, n, counts, options.protocol)
        return dict(zip(metric_names(n), (found.dir1, found.metric, found.dir2), strict=True))

    return scores


def _result(options: ScrOptions, bench: Workbench, sets: Sequence[Measured], name: str, sae: Autoencoder) -> EvalResult:
    seed = bench.generator("scr", "resampling").initial_seed()
    found = summarise(sets, name, options.ns, metric_names, _scores(options, name), seed)
    return EvalResult(
        metrics={"scr_metrics": found.metrics},
        eval_config=saebench_config(options, options.data, bench, perform_scr=True),
        data_sha256=data_sha256(sets),
        details=tuple({"dataset_name": data, **values} for data, values in found.by_set.items()),
        intervals=found.intervals,
        flags=tuple(flags(options, sets, name, sae, found)),
        block={
            "probe_seeds": found.by_seed,
            "accuracies": {data.tasks.name: _accuracies(data, name) for data in sets},
            "features_zeroed": chosen_features(sets, name),
        },
    )


def _accuracies(data: Measured, name: str) -> dict[str, Any]:
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
