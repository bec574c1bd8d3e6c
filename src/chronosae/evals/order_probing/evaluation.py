"""Order-sensitive probing: do a token's codes tell what no bag of tokens can? See docs/evaluations/order-probing.md."""

from collections.abc import Mapping
from typing import ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.order_probing.data import DATA_KEY, N_BACK_KEY, NAME, OrderProbingOptions, task_names, unfit
from chronosae.evals.order_probing.measure import measure
from chronosae.evals.order_probing.report import report
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class OrderProbing(OrderProbingOptions, Evaluation):
    """Probes at the token for what depends on order: roles, mentions, brackets, place, n-back.

    Who paid whom, first or later mention, inside or outside brackets, early or late, n-back.
    """

    name = NAME
    eval_type_id = NAME
    headline: ClassVar[Mapping[str, str]] = {"sae_top_5_test_accuracy": "order k=5"}

    def preflight(self, setting: Setting) -> list[Missing]:
        """Data sets that can't be opened.

        Raises:
            UserError: two data sets share a short name.
        """
        asked = [(data, DATA_KEY) for data in task_names(self).values()]
        if self.n_back:
            asked.append((self.n_back_data, N_BACK_KEY))
        lacking = {DATA_KEY: unfit, N_BACK_KEY: lambda data: None}
        found = [LABELLED.missing(data, key, lacking[key]) for data, key in asked]
        return [missing for missing in found if missing is not None]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """Probe all tasks; see `Evaluation.run`.

        Raises:
            UserError: data without spans or without exactly two labels.
        """
        measured = measure(self, bench, saes)
        return {name: report(self, bench, measured, name) for name in saes}
