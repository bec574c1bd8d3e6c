"""First-letter absorption: read words in spelling prompts, probe, measure. See docs/evaluations/absorption.md."""

from collections.abc import Mapping
from typing import ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.evals.absorption.data import KEY, NAME, VOCABULARY, AbsorptionOptions
from chronosae.evals.absorption.measure import measure
from chronosae.evals.absorption.report import report
from chronosae.evals.data.questions import WORDS
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class Absorption(AbsorptionOptions, Evaluation):
    """First-letter features that go silent where a more specific feature carries the letter.

    Does a feature that stands for a first letter go silent where a more specific feature fires?
    """

    name = NAME
    eval_type_id = "absorption_first_letter"
    undefined = -1
    headline: ClassVar[Mapping[str, str]] = {"mean_absorption_fraction_score": "absorption"}

    def preflight(self, setting: Setting) -> list[Missing]:
        """A word list that can't be read."""
        missing = None if self.data == VOCABULARY else WORDS.missing(self.data, KEY)
        return [] if missing is None else [missing]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """See `Evaluation.run`.

        Raises:
            UserError: too few words, or prompts longer than the subject's context.
        """
        measured = measure(self, bench, saes)
        return {name: report(self, bench, measured, name) for name in saes}
