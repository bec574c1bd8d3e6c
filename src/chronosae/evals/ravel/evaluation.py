"""The evaluation `ravel`: does one set of features carry one attribute?"""

from collections.abc import Mapping
from typing import ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.ravel.data import ATTRIBUTES, KEY, NAME, RavelOptions
from chronosae.evals.ravel.measure import measure
from chronosae.evals.ravel.report import report
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class Ravel(RavelOptions, Evaluation):
    """Disentanglement: exchanging some features changes one attribute of an entity and no other.

    Exchange the features of one attribute between two entities: the attribute follows, the others stay.
    """

    name = NAME
    eval_type_id = "ravel"
    headline: ClassVar[Mapping[str, str]] = {"disentanglement_score": "RAVEL"}
    undefined = -1

    def preflight(self, setting: Setting) -> list[Missing]:
        """Sets that can't be opened."""
        asked = (ATTRIBUTES.missing(data, KEY) for data in self.data)
        return [missing for missing in asked if missing is not None]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """Measure every set; see `Evaluation.run`.

        Raises:
            UserError: a local file is damaged.
        """
        measured = measure(self, bench, saes)
        return {name: report(self, bench, measured, name) for name in saes}
