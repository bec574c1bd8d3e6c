"""Order-sensitive probing: do a token's codes tell what no bag of tokens can? See docs/evaluations/order-probing.md."""

from collections.abc import Mapping

import torch

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.order_probing.items import unfit
from chronosae.evals.order_probing.measure import measure
from chronosae.evals.order_probing.options import OrderProbingOptions
from chronosae.evals.order_probing.report import data_hash, report
from chronosae.evals.order_probing.tasks import DATA_KEY, N_BACK_KEY, NAME, task_names, tasks
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class OrderProbing(OrderProbingOptions, Evaluation):
    """Probes at the token for what depends on order: roles, mentions, brackets, place, n-back.

    Who paid whom, first or later mention, inside or outside brackets, early or late, n-back.
    """

    name = NAME
    eval_type_id = NAME

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
        vocabulary = max(len(bench.subject.tokenizer), bench.subject.vocab_size)
        outcomes = [measure(bench, task, saes, self.k, vocabulary) for task in tasks(self, bench)]
        seed = int(torch.randint(2**31, (1,), generator=bench.generator(NAME, "bootstrap")))
        data = data_hash(outcomes)
        return {name: report(name, outcomes, self, seed, data) for name in saes}
