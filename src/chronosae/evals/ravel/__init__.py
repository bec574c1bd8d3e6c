"""RAVEL-style disentanglement: does one set of features carry one attribute? See docs/evaluations/ravel.md."""

from collections.abc import Mapping

import torch

from chronosae.autoencoders import Autoencoder
from chronosae.evals.evaluation import Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.ravel.data import ATTRIBUTES, AttributeSet
from chronosae.evals.ravel.measure import measure
from chronosae.evals.ravel.options import RavelOptions
from chronosae.evals.ravel.pairs import NAME
from chronosae.evals.ravel.report import report
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench

__all__ = ["ATTRIBUTES", "EVALUATION", "AttributeSet", "Ravel", "RavelOptions"]

DATA_KEY = f"evals.{NAME}.data"


class Ravel(Evaluation[RavelOptions]):
    """Exchange the features of one attribute between two entities: the attribute follows, the others stay."""

    name = NAME
    eval_type_id = "ravel"
    summary = "disentanglement: exchanging some features changes one attribute of an entity and no other"
    options = RavelOptions
    undefined = -1

    def preflight(self, options: RavelOptions, setting: Setting) -> list[Missing]:
        """Sets that can't be opened."""
        asked = (ATTRIBUTES.missing(data, DATA_KEY) for data in options.data)
        return [missing for missing in asked if missing is not None]

    def run(self, options: RavelOptions, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """Measure every set; see `Evaluation.run`.

        Raises:
            UserError: a local file is damaged.
        """
        sets = [measure(bench, ATTRIBUTES.read(data, "all", DATA_KEY), saes, options) for data in options.data]
        seed = int(torch.randint(2**31, (1,), generator=bench.generator(NAME, "bootstrap")))
        dtype = str(bench.subject.dtype).removeprefix("torch.")
        return {name: report(name, sets, options, bench.subject.name, dtype, seed) for name in saes}


EVALUATION = Ravel()
