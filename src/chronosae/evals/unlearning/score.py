"""Accuracies of every setting, the score, its counterpart on held-out facts, and intervals over facts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.evals.bootstrap import Interval, bootstrap


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


def _accuracy(right: Tensor, weights: Tensor) -> Tensor:
    return weights @ right.double().T / weights.sum(-1, keepdim=True)


def number_facts(facts: Sequence[str]) -> Int[Tensor, " n"]:
    """A number for each different fact, in the order of first mention."""
    numbers = {fact: i for i, fact in enumerate(dict.fromkeys(facts))}
    return torch.tensor([numbers[fact] for fact in facts], dtype=torch.long)


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
        for name, kind in (("forget_accuracy", 0), ("kept_accuracy", 1)):
            found[name] = bootstrap(lambda w, kind=kind: outcome.accuracies(w)[kind][:, best], outcome.facts, seed)
    return {name: interval for name, interval in found.items() if interval is not None}
