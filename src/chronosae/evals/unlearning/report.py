"""One autoencoder's result: score, intervals, every setting, flags, and counts in place of questions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.unlearning.data import UnlearningOptions
from chronosae.evals.unlearning.measure import Measured, Unlearned
from chronosae.evals.workbench import Workbench

# With fewer kept questions a single wrong one fails 0.99.
FEW = 100
METRICS = (
    "unlearning_score",
    "unlearning_score_held_out",
    "kept_accuracy_held_out",
    "forget_accuracy",
    "kept_accuracy",
)


@dataclass(frozen=True)
class Outcome:
    """Right answers to the known questions under every setting."""

    forget: Bool[Tensor, "settings forget"]
    kept: Bool[Tensor, "settings kept"]
    forget_facts: Int[Tensor, " forget"]
    """Number of the fact that each question asks for; facts of both kinds are numbered together."""
    kept_facts: Int[Tensor, " kept"]
    facts: int
    floor: float
    """Share of the kept questions that must still be right."""

    def accuracies(
        self, weights: Float[Tensor, "draws facts"]
    ) -> tuple[Float[Tensor, "draws settings"], Float[Tensor, "draws settings"]]:
        """Accuracy on what is to be forgotten and on what is kept, each fact with a weight; NaN without any."""
        return (
            _accuracy(self.forget, weights[:, self.forget_facts]),
            _accuracy(self.kept, weights[:, self.kept_facts]),
        )

    def scores(self, weights: Float[Tensor, "draws facts"]) -> Float[Tensor, " draws"]:
        """1 - the lowest accuracy on what is to be forgotten, over settings that keep enough; 0 where none does."""
        forget, kept = self.accuracies(weights)
        lowest = torch.where(kept >= self.floor, forget, 1.0).amin(-1)
        return (1 - lowest).masked_fill((forget + kept).isnan().any(-1), torch.nan)

    def best(self, weights: Float[Tensor, "1 facts"]) -> int | None:
        """The setting that the score speaks of, the first among equals; None where none keeps enough."""
        forget, kept = (accuracy[0] for accuracy in self.accuracies(weights))
        enough = kept >= self.floor
        return int(torch.where(enough, forget, torch.inf).argmin()) if enough.any() else None

    @property
    def all_facts(self) -> Float[Tensor, "1 facts"]:
        """Every fact once."""
        return torch.ones(1, self.facts, dtype=torch.float64)

    @property
    def defined(self) -> bool:
        """Some question of either kind is known."""
        return self.forget.shape[1] > 0 and self.kept.shape[1] > 0


def _accuracy(right: Tensor, weights: Tensor) -> Tensor:
    return weights @ right.double().T / weights.sum(-1, keepdim=True)


def report(options: UnlearningOptions, bench: Workbench, measured: Measured, name: str) -> EvalResult:
    """The result of autoencoder `name`; metrics are None where no question of either kind is known."""
    one = measured.of[name]
    outcome = outcome_of(measured, one, options.retained_accuracy)
    best = outcome.best(outcome.all_facts) if outcome.defined else None
    seed = bench.generator("unlearning", "bootstrap").initial_seed()
    return EvalResult(
        metrics={"unlearning": _metrics(outcome, best, bench.generator("unlearning", "halves"))},
        eval_config=_saebench_config(options, bench, measured),
        data_sha256=measured.data_sha256,
        details=tuple(_row(measured, one, i) for i in range(len(one.tried))),
        intervals=intervals(outcome, seed) if outcome.defined else {},
        resampled="facts",
        flags=(*_about_features(one), *_about_questions(options, measured, outcome, best)),
        block=_block(measured, one, best),
    )


def outcome_of(measured: Measured, one: Unlearned, floor: float) -> Outcome:
    """Right answers, split into what is to be forgotten and what is kept."""
    facts = number_facts([measured.bank.questions[i].fact for i in measured.known.which.tolist()])
    is_kept, right = measured.sets > 0, one.answers.right
    n_facts = int(facts.max()) + 1 if len(facts) else 0
    return Outcome(right[:, ~is_kept], right[:, is_kept], facts[~is_kept], facts[is_kept], n_facts, floor)


def number_facts(facts: Sequence[str]) -> Int[Tensor, " n"]:
    """A number for each different fact, in the order of first mention."""
    numbers = {fact: i for i, fact in enumerate(dict.fromkeys(facts))}
    return torch.tensor([numbers[fact] for fact in facts], dtype=torch.long)


def _metrics(outcome: Outcome, best: int | None, generator: torch.Generator) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    if outcome.defined:
        found["unlearning_score"] = float(outcome.scores(outcome.all_facts))
        for metric, accuracy in zip(METRICS[3:], outcome.accuracies(outcome.all_facts), strict=True):
            found[metric] = 1.0 if best is None else float(accuracy[0, best])
        halves = held_out(outcome, generator)
        if halves is not None:
            found |= dict(zip(METRICS[1:3], halves, strict=True))
    return found


def held_out(outcome: Outcome, generator: torch.Generator) -> tuple[float, float] | None:
    """Score and kept accuracy when the setting is chosen on half of the facts and judged on the other half.

    The mean of both directions; a half whose choice is no setting at all is judged unedited. None where a half has no
    question of either kind.
    """
    in_first = _halves(outcome.forget_facts, outcome.facts, generator)
    in_first |= _halves(outcome.kept_facts, outcome.facts, generator)
    scores, kept = [], []
    for half in (in_first, ~in_first):
        choosing, judging = half.double().unsqueeze(0), (~half).double().unsqueeze(0)
        if any(accuracy.isnan().any() for accuracy in (*outcome.accuracies(choosing), *outcome.accuracies(judging))):
            return None
        best = outcome.best(choosing)
        forget_accuracy, kept_accuracy = outcome.accuracies(judging)
        scores.append(0.0 if best is None else 1 - float(forget_accuracy[0, best]))
        kept.append(1.0 if best is None else float(kept_accuracy[0, best]))
    return sum(scores) / 2, sum(kept) / 2


def _halves(facts: Int[Tensor, " n"], n_facts: int, generator: torch.Generator) -> Bool[Tensor, " facts"]:
    """A random half of the facts that are asked for."""
    own = facts.unique()
    drawn = own[torch.randperm(len(own), generator=generator)[: len(own) // 2]]
    return torch.zeros(n_facts, dtype=torch.bool).index_fill_(0, drawn, True)


def intervals(outcome: Outcome, seed: int) -> dict[str, Interval]:
    """95 % intervals over resampled facts, the setting chosen anew in every resample."""
    found = {"unlearning_score": bootstrap(outcome.scores, outcome.facts, seed)}
    best = outcome.best(outcome.all_facts)
    if best is not None:
        for kind, name in enumerate(METRICS[3:]):
            found[name] = bootstrap(lambda w, kind=kind: outcome.accuracies(w)[kind][:, best], outcome.facts, seed)
    return {name: interval for name, interval in found.items() if interval is not None}


def _row(measured: Measured, one: Unlearned, i: int) -> dict[str, Any]:
    """One setting, with the accuracy on each set (None where none of its questions is known)."""
    tried, right, sets = one.tried[i], one.answers.right[i], measured.sets
    return {
        "retain_threshold": tried.retain_threshold,
        "n_features": tried.n_features,
        "multiplier": tried.multiplier,
        "features_clamped": len(tried.features),
        "forget_accuracy": _mean(right[sets == 0]),
        "all_side_effects_mcq": _mean(right[sets > 0]),
        "questions_touched": int(one.answers.touched[i]),
        **{f"accuracy/{name}": _mean(right[sets == s]) for s, name in enumerate(measured.bank.names)},
    }


def _mean(right: Tensor) -> float | None:
    return float(right.double().mean()) if len(right) else None


def _about_features(one: Unlearned) -> Iterator[str]:
    if not one.forget.any():
        yield "never_fires: no feature fires on the forget text"
    elif not any(setting.features for setting in one.tried):
        yield "no_feature_chosen: all that fire on the forget text fire too often on the retain text"
    elif any(len(setting.features) < setting.n_features for setting in one.tried):
        fewest = min(len(setting.features) for setting in one.tried)
        yield f"fewer_features_than_asked: only {fewest} qualify at the lowest retain threshold"


def _about_questions(
    options: UnlearningOptions, measured: Measured, outcome: Outcome, best: int | None
) -> Iterator[str]:
    if outcome.forget.shape[1] == 0:
        yield "no_known_question: none of those to be forgotten is answered right in every order"
    for s, name in enumerate(measured.bank.names):
        if s > 0 and not (measured.sets == s).any():
            yield f"no_known_question: {name}"
    if 0 < outcome.kept.shape[1] < FEW:
        yield f"few_kept_questions: {outcome.kept.shape[1]}; one wrong answer decides over a setting"
    if best is None and outcome.defined:
        yield f"no_setting_keeps_enough: all settings fall below {options.retained_accuracy} on kept questions"
    if measured.known.too_long:
        yield f"questions_too_long: {measured.known.too_long} don't fit into the subject's context"
    for name, tokens in measured.tokens.items():
        if tokens < options.text_tokens:
            yield f"fewer_tokens_than_asked: {name} has {tokens}"


def _block(measured: Measured, one: Unlearned, best: int | None) -> dict[str, Any]:
    bank, known, sets = measured.bank, measured.known, measured.sets
    counts = {
        name: {
            "asked": int((bank.sets == s).sum()),
            "right": int(known.right[bank.sets == s].sum()),
            "known": int((sets == s).sum()),
            "rows": bank.numbers[known.which[sets == s]].tolist(),
        }
        for s, name in enumerate(bank.names)
    }
    features = {
        str(setting.retain_threshold): [
            {"feature": f, "forget": float(one.forget[f]), "retain": float(one.retain[f])} for f in setting.features
        ]
        for setting in sorted(one.tried, key=lambda setting: setting.n_features)
    }
    return {"chosen_setting": best, "features": features, "questions": counts, "tokens": measured.tokens}


def _saebench_config(options: UnlearningOptions, bench: Workbench, measured: Measured) -> dict[str, Any]:
    """What SAEBench's own configuration would have had to be."""
    kind = options.intervention.kind
    return {
        "random_seed": bench.seed,
        "dataset_names": list(measured.bank.names),
        "intervention_method": "clamp_feature_activation" if kind == "clamp" else kind,
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
