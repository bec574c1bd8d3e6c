"""An evaluation of your own: how many different features a text uses."""

from typing import ClassVar

from chronosae.evals import EVALUATIONS, EvalResult, Evaluation
from chronosae.evals.bootstrap import bootstrap
from chronosae.evals.data import LABELLED
from chronosae.evals.probes import pooled


@EVALUATIONS.add
class Breadth(Evaluation):
    """How many different features a text uses."""

    name = eval_type_id = "breadth"
    headline: ClassVar = {"features_a_text": "breadth"}
    data: str = "world/subject"
    """Labelled texts, by name or path."""
    context: int = 32
    """Tokens of a text that are read."""

    def run(self, bench, saes):
        rows = bench.read(LABELLED.read(self.data, "test", "evals.breadth.data").texts, self.context)
        used = {name: (codes != 0).sum(1).double() for name, codes in pooled(bench, rows, saes, "max", "texts").items()}
        return {name: self._result(used[name], rows.sha256(), bench.seed) for name in saes}

    def _result(self, n, sha256, seed):
        found = bootstrap(lambda counts: counts @ n / counts.sum(1), len(n), seed)
        metrics = {"breadth": {"features_a_text": float(n.mean())}}
        return EvalResult(metrics, self.model_dump(), sha256, intervals={"features_a_text": found} if found else {})
