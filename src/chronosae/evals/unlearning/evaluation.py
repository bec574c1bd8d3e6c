"""The evaluation `unlearning`: choose features by how often they fire, act on them, ask what is still known."""

from collections.abc import Mapping
from typing import ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.unlearning.data import UnlearningOptions, missing_pieces
from chronosae.evals.unlearning.measure import measure
from chronosae.evals.unlearning.report import report
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class Unlearning(UnlearningOptions, Evaluation):
    """Clamp features that fire on the forget text: what does the subject still know?

    SAEBench's `unlearning` (Farrell et al. 2024, arXiv 2410.19278) on any questions that the subject knows, and with
    any intervention.
    """

    name = "unlearning"
    eval_type_id = "unlearning"
    headline: ClassVar[Mapping[str, str]] = {"unlearning_score": "unlearning"}
    undefined = -1

    def preflight(self, setting: Setting) -> list[Missing]:
        """Texts, questions and the chat template."""
        return missing_pieces(self, setting)

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """
        Raises:
            UserError: data are missing; or, beginning with `subject_does_not_know`, the subject is not above chance on
                what it is to forget.
        """
        measured = measure(self, bench, saes)
        return {name: report(self, bench, measured, name) for name in saes}
