"""One autoencoder's result: metrics, every setting, flags, and counts in place of questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from chronosae.evals.result import EvalResult
from chronosae.evals.unlearning.knows import Bank, Known
from chronosae.evals.unlearning.options import UnlearningOptions
from chronosae.evals.unlearning.score import Outcome, held_out, intervals, number_facts
from chronosae.evals.unlearning.sweep import Answers, Tried
from chronosae.evals.workbench import Workbench

# With fewer kept questions a single wrong one fails 0.99.
FEW = 100


@dataclass(frozen=True)
class Shared:
    """What all autoencoders of a run have in common."""

    options: UnlearningOptions
    bench: Workbench
    bank: Bank
    known: Known
    tokens: dict[str, int]
    """Unmasked tokens of each text."""
    data_sha256: str

    @property
    def sets(self) -> Int[Tensor, " known"]:
        """Set of each known question."""
        return self.bank.sets[self.known.which]


@dataclass(frozen=True)
class Measured:
    """What was measured on one autoencoder."""

    shared: Shared
    forget: np.ndarray
    """Share of the forget text's tokens on which each feature fires."""
    retain: np.ndarray
    tried: Sequence[Tried]
    answers: Answers

    def outcome(self) -> Outcome:
        """Right answers, split into what is to be forgotten and what is kept."""
        known, bank = self.shared.known, self.shared.bank
        facts = number_facts([bank.questions[i].fact for i in known.which.tolist()])
        is_kept, right = self.shared.sets > 0, self.answers.right
        n_facts = int(facts.max()) + 1 if len(facts) else 0
        return Outcome(
            right[:, ~is_kept],
            right[:, is_kept],
            facts[~is_kept],
            facts[is_kept],
            n_facts,
            self.shared.options.retained_accuracy,
        )


def result_of(measured: Measured) -> EvalResult:
    """The result; metrics are None where no question of either kind is known."""
    outcome = measured.outcome()
    defined = outcome.forget.shape[1] > 0 and outcome.kept.shape[1] > 0
    seed = measured.shared.bench.generator("unlearning", "bootstrap").initial_seed()
    best = outcome.best(outcome.all_facts) if defined else None
    return EvalResult(
        metrics={"unlearning": _metrics(measured, outcome, best, defined)},
        eval_config=_saebench_config(measured),
        data_sha256=measured.shared.data_sha256,
        details=tuple(_row(measured, i) for i in range(len(measured.tried))),
        intervals=intervals(outcome, seed) if defined else {},
        resampled="facts",
        flags=tuple(_flags(measured, outcome, best)),
        block=_block(measured, best),
    )


def _metrics(measured: Measured, outcome: Outcome, best: int | None, defined: bool) -> dict[str, float | None]:
    names = ("unlearning_score", "unlearning_score_held_out", "kept_accuracy_held_out", "forget_accuracy")
    found: dict[str, float | None] = dict.fromkeys((*names, "kept_accuracy"))
    if defined:
        found["unlearning_score"] = float(outcome.scores(outcome.all_facts))
        forget, kept = (accuracy[0] for accuracy in outcome.accuracies(outcome.all_facts))
        found["forget_accuracy"] = 1.0 if best is None else float(forget[best])
        found["kept_accuracy"] = 1.0 if best is None else float(kept[best])
        halves = held_out(outcome, measured.shared.bench.generator("unlearning", "halves"))
        if halves is not None:
            found["unlearning_score_held_out"], found["kept_accuracy_held_out"] = halves
    return found


def _row(measured: Measured, i: int) -> dict[str, Any]:
    """One setting, with the accuracy on each set (None where none of its questions is known)."""
    tried, right = measured.tried[i], measured.answers.right[i]
    by_set = {name: _mean(right[measured.shared.sets == s]) for s, name in enumerate(measured.shared.bank.names)}
    return {
        "retain_threshold": tried.retain_threshold,
        "n_features": tried.n_features,
        "multiplier": tried.multiplier,
        "features_clamped": len(tried.features),
        "forget_accuracy": _mean(right[measured.shared.sets == 0]),
        "all_side_effects_mcq": _mean(right[measured.shared.sets > 0]),
        "questions_touched": int(measured.answers.touched[i]),
        **{f"accuracy/{name}": value for name, value in by_set.items()},
    }


def _mean(right: Tensor) -> float | None:
    return float(right.double().mean()) if len(right) else None


def _flags(measured: Measured, outcome: Outcome, best: int | None) -> list[str]:
    options, tried = measured.shared.options, measured.tried
    flags = []
    if not measured.forget.any():
        flags.append("never_fires: no feature fires on the forget text")
    elif not any(setting.features for setting in tried):
        flags.append("no_feature_chosen: all that fire on the forget text fire too often on the retain text")
    elif any(len(setting.features) < setting.n_features for setting in tried):
        fewest = min(len(setting.features) for setting in tried)
        flags.append(f"fewer_features_than_asked: only {fewest} qualify at the lowest retain threshold")
    if outcome.forget.shape[1] == 0:
        flags.append("no_known_question: none of those to be forgotten is answered right in every order")
    flags += [
        f"no_known_question: {name}"
        for s, name in enumerate(measured.shared.bank.names)
        if s > 0 and not (measured.shared.sets == s).any()
    ]
    if 0 < outcome.kept.shape[1] < FEW:
        flags.append(f"few_kept_questions: {outcome.kept.shape[1]}; one wrong answer decides over a setting")
    if best is None and outcome.forget.shape[1] and outcome.kept.shape[1]:
        flags.append(f"no_setting_keeps_enough: all settings fall below {options.retained_accuracy} on kept questions")
    if measured.shared.known.too_long:
        flags.append(f"questions_too_long: {measured.shared.known.too_long} don't fit into the subject's context")
    short = [name for name, tokens in measured.shared.tokens.items() if tokens < options.text_tokens]
    flags += [f"fewer_tokens_than_asked: {name} has {measured.shared.tokens[name]}" for name in short]
    return flags


def _block(measured: Measured, best: int | None) -> dict[str, Any]:
    bank, known = measured.shared.bank, measured.shared.known
    counts = {
        name: {
            "asked": int((bank.sets == s).sum()),
            "right": int(known.right[bank.sets == s].sum()),
            "known": int((measured.shared.sets == s).sum()),
            "rows": bank.numbers[known.which[measured.shared.sets == s]].tolist(),
        }
        for s, name in enumerate(bank.names)
    }
    features = {
        str(setting.retain_threshold): [
            {"feature": f, "forget": float(measured.forget[f]), "retain": float(measured.retain[f])}
            for f in setting.features
        ]
        for setting in sorted(measured.tried, key=lambda setting: setting.n_features)
    }
    return {
        "chosen_setting": best,
        "features": features,
        "questions": counts,
        "tokens": measured.shared.tokens,
    }


def _saebench_config(measured: Measured) -> dict[str, Any]:
    """What SAEBench's own configuration would have had to be."""
    options, bench = measured.shared.options, measured.shared.bench
    return {
        "random_seed": bench.seed,
        "dataset_names": list(measured.shared.bank.names),
        "intervention_method": "clamp_feature_activation",
        "retain_thresholds": list(options.retain_thresholds),
        "n_features_list": list(options.n_features),
        "multipliers": list(options.multipliers),
        "dataset_size": -(-options.text_tokens // options.context),
        "seq_len": options.context,
        "n_batch_loss_added": 0,
        "target_metric": "correct",
        "save_metrics": False,
        "model_name": bench.subject.name,
        "llm_batch_size": 1,
        "llm_dtype": str(bench.subject.dtype).removeprefix("torch."),
    }
