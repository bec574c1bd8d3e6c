"""Which questions the subject answers right: before anything is forgotten it must be known to be known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.acts_cache import ActivationCache
from chronosae.evals.data import QUESTIONS, Question
from chronosae.evals.multiple_choice import (
    ORDERS,
    Asked,
    Order,
    ask_by_letters,
    ask_by_likelihood,
    clean_scores,
    topic,
)
from chronosae.evals.unlearning.options import UnlearningOptions
from chronosae.evals.workbench import Workbench

CHANCE = 0.25
P_VALUE = 0.01
KEY = "evals.unlearning"


@dataclass(frozen=True)
class Bank:
    """The questions of all sets, one after another; set 0 is to be forgotten."""

    names: tuple[str, ...]
    questions: tuple[Question, ...]
    sets: Int[Tensor, " n"]
    """Which set each is from."""
    numbers: Int[Tensor, " n"]
    """Row of each in its set."""


def read_bank(bench: Workbench, options: UnlearningOptions) -> Bank:
    """At most `max_questions` of each set, in the set's order.

    Raises:
        UserError: a set is missing or damaged.
    """
    keys = [f"{KEY}.forget_questions", *[f"{KEY}.kept_questions"] * len(options.kept_questions)]
    names: list[str] = []
    questions: list[Question] = []
    sets, numbers = [], []
    for i, (given, key) in enumerate(zip([options.forget_questions, *options.kept_questions], keys, strict=True)):
        found = QUESTIONS.read(given, "test", key)
        drawn = torch.randperm(len(found), generator=bench.generator("unlearning", "questions", found.name))
        chosen = sorted(drawn[: options.max_questions].tolist())
        names.append(found.name)
        questions += [found.questions[row] for row in chosen]
        sets.append(torch.full((len(chosen),), i))
        numbers.append(torch.tensor(chosen, dtype=torch.long))
    return Bank(tuple(names), tuple(questions), torch.cat(sets), torch.cat(numbers))


@dataclass(frozen=True)
class Known:
    """What the unedited subject knows."""

    asked: Asked
    """The known questions, options in their own order."""
    scores: Float[Tensor, "rows width"]
    """Of the unedited subject."""
    which: Int[Tensor, " known"]
    """Their places in the bank."""
    right: Bool[Tensor, " n"]
    """Right as they stand, for each question of the bank."""
    too_long: int
    """Questions that don't fit into the subject's context."""
    sha256: str
    """Hash over all questions as they were read, known or not."""


def find_known(bench: Workbench, bank: Bank, options: UnlearningOptions) -> Known:
    """Ask every question once; with lettered options, ask those that were right in the other 23 orders too.

    Raises:
        UserError: the subject isn't above chance on what it is to forget; or no kept question fits.
    """
    everything = torch.arange(len(bank.questions))
    asked = _ask(bench, bank, everything, options, ORDERS[0])
    scores = clean_scores(bench, asked, "questions, unedited")
    right = asked.right(scores) & asked.fits
    check_knows(right[(bank.sets == 0) & asked.fits], bank.names[0], options.format)
    which = right.nonzero().squeeze(1)
    if options.format == "letters":
        # Read once and never again: not worth a place on the disk.
        passing = replace(bench, cache=ActivationCache(None))
        for order in ORDERS[1:]:
            if not len(which):
                break
            again = _ask(bench, bank, which, options, order)
            which = which[again.right(clean_scores(passing, again, "questions in other orders")) & again.fits]
    per = 4 // asked.width
    rows = (which.unsqueeze(1) * per + torch.arange(per)).flatten()
    return Known(asked.some(which), scores[rows], which, right, int((~asked.fits).sum()), asked.sha256())


def check_knows(right: Bool[Tensor, " n"], name: str, form: str) -> None:
    """Refuse a subject that is not above chance: it has nothing to forget.

    Raises:
        UserError: one-sided binomial test against one in four, p of 0.01 or more.
    """
    hits, n = int(right.sum()), len(right)
    p = float(binomtest(hits, n, CHANCE, alternative="greater").pvalue) if n else 1.0
    if p >= P_VALUE:
        raise UserError(
            f"subject_does_not_know: {hits} of {n} questions of {name} are answered right in format {form}, not above"
            f" chance (one in four; p = {p:.2g}), so there is nothing to unlearn; use another subject, other"
            f" {KEY}.forget_questions, or another {KEY}.format"
        )


def _ask(bench: Workbench, bank: Bank, which: Int[Tensor, " some"], options: UnlearningOptions, order: Order) -> Asked:
    questions: Sequence[Question] = [bank.questions[i] for i in which.tolist()]
    if options.format == "likelihood":
        return ask_by_likelihood(bench, questions)
    topics = [topic(bank.names[i]) for i in bank.sets[which].tolist()]
    return ask_by_letters(bench, questions, topics, order, options.chat)
