"""The sparse-probing evaluation: data set by data set, all autoencoders of a site together."""

from collections.abc import Mapping
from typing import ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.sparse_probing.data import KEY, NAME, SparseProbingOptions
from chronosae.evals.sparse_probing.measure import measure
from chronosae.evals.sparse_probing.report import report
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class SparseProbing(SparseProbingOptions, Evaluation):
    """How well k features alone tell a text's class, beside raw activations.

    How well k features tell a text's class, beside k raw channels, all features and all channels.
    """

    name = NAME
    eval_type_id = NAME
    headline: ClassVar[Mapping[str, str]] = {
        "sae_top_1_test_accuracy": "probing k=1",
        "sae_top_5_test_accuracy": "probing k=5",
    }

    def preflight(self, setting: Setting) -> list[Missing]:
        """Data sets that can't be opened."""
        found = [LABELLED.missing(name, KEY) for name in dict.fromkeys(self.data)]
        return [missing for missing in found if missing is not None]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """See `docs/evaluations/sparse-probing.md`."""
        measured = measure(self, bench, saes)
        return {name: report(self, bench, measured, name) for name in saes}
