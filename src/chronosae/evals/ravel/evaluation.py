"""RAVEL-style disentanglement: does one set of features carry one attribute? See docs/evaluations/ravel.md."""

from collections.abc import Mapping

import torch

from chronosae.autoencoders import Autoencoder
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.ravel.data import ATTRIBUTES
from chronosae.evals.ravel.measure import measure
from chronosae.evals.ravel.options import RavelOptions
from chronosae.evals.ravel.pairs import NAME
from chronosae.evals.ravel.report import report
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench

DATA_KEY = f"evals.{NAME}.data"


@EVALUATIONS.add
class Ravel(RavelOptions, Evaluation):
    """Disentanglement: exchanging some features changes one attribute of an entity and no other.

    Exchange the features of one attribute between two entities: the attribute follows, the others stay.
    """

    name = NAME
    eval_type_id = "ravel"
    undefined = -1

    def preflight(self, setting: Setting) -> list[Missing]:
        """Sets that can't be opened."""
        asked = (ATTRIBUTES.missing(data, DATA_KEY) for data in self.data)
        return [missing for missing in asked if missing is not None]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """Measure every set; see `Evaluation.run`.

        Raises:
            UserError: a local file is damaged.
        """
        sets = [measure(bench, ATTRIBUTES.read(data, "all", DATA_KEY), saes, self) for data in self.data]
        seed = int(torch.randint(2**31, (1,), generator=bench.generator(NAME, "bootstrap")))
        dtype = str(bench.subject.dtype).removeprefix("torch.")
        return {name: report(name, sets, self, bench.subject.name, dtype, seed) for name in saes}
