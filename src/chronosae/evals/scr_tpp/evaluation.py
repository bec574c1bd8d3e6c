"""The evaluations `scr` and `tpp`: what zeroing a few features does to probes."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.scr_tpp.data import (
    ScrOptions,
    TppOptions,
    read_classes,
    read_pairs,
    unfit_for_scr,
)
from chronosae.evals.scr_tpp.measure import effects_either_way, effects_for_class, measure
from chronosae.evals.scr_tpp.report import report_scr, report_tpp
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class Scr(ScrOptions, Evaluation):
    """Spurious correlation removal: accuracy that zeroing a few features gives back to a biased probe.

    SAEBench's `scr`: does zeroing a few features take one of two entangled labels out of a probe?
    """

    eval_type_id = "scr"
    headline: ClassVar[Mapping[str, str]] = {"scr_metric_threshold_20": "SCR@20"}

    def preflight(self, setting: Setting) -> list[Missing]:
        return _missing(self.data, "evals.scr.data", unfit_for_scr)

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        measured = measure(self, bench, saes, read_pairs, effects_either_way)
        return {name: report_scr(self, bench, measured, name) for name in saes}


@EVALUATIONS.add
class Tpp(TppOptions, Evaluation):
    """Targeted probe perturbation: what zeroing a class's features costs its own probe, and the others.

    SAEBench's `tpp`: does it hurt the probe of this class and no other?
    """

    eval_type_id = "tpp"
    headline: ClassVar[Mapping[str, str]] = {"tpp_threshold_20_total_metric": "TPP@20"}

    def preflight(self, setting: Setting) -> list[Missing]:
        return _missing(self.data, "evals.tpp.data")

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        measured = measure(self, bench, saes, read_classes, effects_for_class)
        return {name: report_tpp(self, bench, measured, name) for name in saes}


def _missing(
    names: Sequence[str], key: str, lacking: Callable[[LabelledTexts], str | None] = lambda data: None
) -> list[Missing]:
    """Data sets that can't be opened, or lack what is needed of them."""
    found = [LABELLED.missing(name, key, lacking) for name in names]
    return [missing for missing in found if missing is not None]
