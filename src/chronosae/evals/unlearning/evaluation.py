"""The evaluation `unlearning`: choose features by how often they fire, clamp them, ask what is still known."""

import hashlib
from collections.abc import Mapping

import numpy as np

from chronosae.autoencoders import Autoencoder
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.unlearning.frequencies import firing_frequencies, ranked_features, text_rows
from chronosae.evals.unlearning.knows import KEY, find_known, read_bank
from chronosae.evals.unlearning.options import UnlearningOptions
from chronosae.evals.unlearning.report import Measured, Shared, result_of
from chronosae.evals.unlearning.sweep import Tried, sweep
from chronosae.evals.unlearning.wants import missing_pieces
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class Unlearning(UnlearningOptions, Evaluation):
    """Clamp features that fire on the forget text: what does the subject still know?.

    SAEBench's `unlearning` (Farrell et al. 2024, arXiv 2410.19278) on any questions that the subject knows.
    """

    name = "unlearning"
    eval_type_id = "unlearning"
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
        bank = read_bank(bench, self)
        known = find_known(bench, bank, self)
        forget_rows, retain_rows = (
            text_rows(bench, source, f"{KEY}.{field}", self.text_tokens, self.context)
            for source, field in ((self.forget_text, "forget_text"), (self.retain_text, "retain_text"))
        )
        forget = firing_frequencies(bench, forget_rows, saes, "forget text")
        retain = firing_frequencies(bench, retain_rows, saes, "retain text")
        tried = {name: settings(forget[name], retain[name], self) for name in saes}
        answers = sweep(bench, known, saes, tried)
        digest = hashlib.sha256("".join([forget_rows.sha256(), retain_rows.sha256(), known.sha256]).encode())
        tokens = {"forget_text": int(forget_rows.mask.sum()), "retain_text": int(retain_rows.mask.sum())}
        shared = Shared(self, bench, bank, known, tokens, digest.hexdigest())
        return {
            name: result_of(Measured(shared, forget[name], retain[name], tried[name], answers[name])) for name in saes
        }


def settings(forget: np.ndarray, retain: np.ndarray, options: UnlearningOptions) -> list[Tried]:
    """Every setting that is tried, weaker ones first, from the firing frequencies of each feature."""
    found = []
    for threshold in options.retain_thresholds:
        ranked = ranked_features(forget, retain, threshold, options.protocol)
        for n in options.n_features:
            found += [Tried(threshold, n, m, tuple(ranked[:n])) for m in options.multipliers]
    return found
