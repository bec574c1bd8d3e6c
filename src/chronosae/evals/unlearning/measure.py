"""What every setting leaves of what the subject knows: features chosen by how often they fire, acted on, asked again.

A question counts when the unedited subject answers it right: before anything is forgotten it must be known to be known.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.config import UserError
from chronosae.evals.multiple_choice import (
    ORDERS,
    Asked,
    Order,
    ask_by_letters,
    ask_by_likelihood,
    clean_scores,
    scores,
    topic,
)
from chronosae.evals.texts import TokenRows
from chronosae.evals.unlearning.data import KEY, Bank, UnlearningOptions, read_bank, text_rows
from chronosae.evals.workbench import ActivationCache, Workbench
from chronosae.interventions import CodeEdit, Reading, applied, code_unit

CHANCE = 0.25
P_VALUE = 0.01


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


@dataclass(frozen=True)
class Tried:
    """One setting: how features are chosen and how strongly they are acted on."""

    retain_threshold: float
    n_features: int
    multiplier: int
    features: tuple[int, ...]
    """At most `n_features`: fewer where no more qualify."""
    edit: CodeEdit
    """What is done at the site."""


@dataclass(frozen=True)
class Answers:
    """What each setting left of the known questions."""

    right: Bool[Tensor, "settings known"]
    touched: Int[Tensor, " settings"]
    """Questions in which a chosen feature was acted on."""


@dataclass(frozen=True)
class Unlearned:
    """What was measured on one autoencoder."""

    forget: np.ndarray
    """Share of the forget text's tokens on which each feature fires."""
    retain: np.ndarray
    tried: Sequence[Tried]
    answers: Answers


@dataclass(frozen=True)
class Measured:
    """What was measured on all autoencoders, and what they have in common."""

    bank: Bank
    known: Known
    tokens: dict[str, int]
    """Unmasked tokens of each text."""
    data_sha256: str
    of: Mapping[str, Unlearned]
    """By autoencoder."""

    @property
    def sets(self) -> Int[Tensor, " known"]:
        """Set of each known question."""
        return self.bank.sets[self.known.which]


def measure(options: UnlearningOptions, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
    """All settings of all autoencoders; texts and questions are read once for all of them.

    Raises:
        UserError: data are missing; or, beginning with `subject_does_not_know`, the subject is not above chance on
            what it is to forget.
    """
    bank = read_bank(bench, options)
    known = find_known(bench, bank, options)
    forget_rows, retain_rows = (
        text_rows(bench, getattr(options, field), f"{KEY}.{field}", options.text_tokens, options.context)
        for field in ("forget_text", "retain_text")
    )
    forget = firing_frequencies(bench, forget_rows, saes, "forget text")
    retain = firing_frequencies(bench, retain_rows, saes, "retain text")
    tried = {name: settings(forget[name], retain[name], options) for name in saes}
    answers = sweep(bench, known, saes, tried)
    digest = hashlib.sha256("".join([forget_rows.sha256(), retain_rows.sha256(), known.sha256]).encode())
    tokens = {"forget_text": int(forget_rows.mask.sum()), "retain_text": int(retain_rows.mask.sum())}
    of = {name: Unlearned(forget[name], retain[name], tried[name], answers[name]) for name in saes}
    return Measured(bank, known, tokens, digest.hexdigest(), of)


def find_known(bench: Workbench, bank: Bank, options: UnlearningOptions) -> Known:
    """Ask every question once; with lettered options, ask those that were right in the other 23 orders too.

    Raises:
        UserError: the subject isn't above chance on what it is to forget; or no kept question fits.
    """
    everything = torch.arange(len(bank.questions))
    asked = _ask(bench, bank, everything, options, ORDERS[0])
    unedited = clean_scores(bench, asked, "questions, unedited")
    right = asked.right(unedited) & asked.fits
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
    return Known(asked.some(which), unedited[rows], which, right, int((~asked.fits).sum()), asked.sha256())


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
    questions = [bank.questions[i] for i in which.tolist()]
    if options.format == "likelihood":
        return ask_by_likelihood(bench, questions)
    topics = [topic(bank.names[i]) for i in bank.sets[which].tolist()]
    return ask_by_letters(bench, questions, topics, order, options.chat)


def firing_frequencies(
    bench: Workbench, rows: TokenRows, saes: Mapping[str, Autoencoder], what: str
) -> dict[str, np.ndarray]:
    """Share of the unmasked tokens on which each feature fires (code > 0): float64 `[d_sae]` by autoencoder.

    Of codes that a context foretells (TFA) the novel part counts.
    """
    counts = {name: torch.zeros(sae.d_sae, dtype=torch.long) for name, sae in saes.items()}
    for _, codes in bench.encoded(rows, saes, what):
        for name, code in codes.items():
            counts[name] += _positive(code.chosen()).cpu()
    total = int(rows.mask.sum())
    return {name: (count.double() / total).numpy() for name, count in counts.items()}


def _positive(codes: Codes) -> Int[Tensor, " d_sae"]:
    if isinstance(codes, SparseCodes):
        return torch.bincount(codes.indices[codes.values > 0], minlength=codes.d_sae)
    return (codes.values > 0).flatten(0, -2).sum(0)


def settings(forget: np.ndarray, retain: np.ndarray, options: UnlearningOptions) -> list[Tried]:
    """Every setting that is tried, weaker ones first, from the firing frequencies of each feature."""
    found = []
    for threshold in options.retain_thresholds:
        ranked = ranked_features(forget, retain, threshold, options.protocol)
        for n, multiplier in product(options.n_features, options.multipliers):
            features = tuple(ranked[:n])
            edit = options.intervention.edit(features, float(multiplier))
            found.append(Tried(threshold, n, multiplier, features, edit))
    return found


def ranked_features(forget: np.ndarray, retain: np.ndarray, threshold: float, protocol: str) -> list[int]:
    """Features that fire on the forget text and on less than `threshold` of the retain text, most frequent first.

    Args:
        protocol: `chronosae`, or `saebench`: frequencies in float32 pass through a text file of six decimals, and
            equals stand as numpy's default sort leaves them, reversed.
    """
    if protocol == "saebench":
        forget, retain = _six_decimals(forget), _six_decimals(retain)
    score = np.where(retain >= threshold, 0.0, forget)
    order = np.argsort(score)[::-1] if protocol == "saebench" else np.argsort(-score, kind="stable")
    return order[: np.count_nonzero(score)].tolist()


def _six_decimals(frequencies: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:f}") for value in frequencies.astype(np.float32)])


def sweep(
    bench: Workbench, known: Known, saes: Mapping[str, Autoencoder], tried: Mapping[str, Sequence[Tried]]
) -> dict[str, Answers]:
    """All settings of all autoencoders in one pass over the questions.

    The activations at the site and the codes are computed once, and the rest of the subject is run from there. A row
    that an edit leaves alone is the unedited subject's own and isn't run again; settings that act on the same features
    alike are run once.
    """
    asked = known.asked
    found = {name: known.scores.repeat(len(tried[name]), 1, 1) for name in saes}
    touched = {name: torch.zeros(len(tried[name]), len(asked.rows), dtype=torch.bool) for name in saes}
    for part, codes in bench.encoded(asked.rows, saes, "questions, features acted on"):
        for name, sae in saes.items():
            batch = part.batch.to(sae.b_dec.device)
            unit = code_unit(sae, codes[name])
            reading = Reading(batch.acts, batch.mask, codes[name], unit, batch.positions, batch.doc_ids)
            for edit, alike in _alike(tried[name]):
                change = edit(reading)
                rows = (change.where & reading.mask).any(1).nonzero().squeeze(1).cpu()
                values = scores(bench, asked, part, applied(sae, reading, change), rows)
                for i in alike:
                    found[name][i, part.index[rows]] = values
                    touched[name][i, part.index[rows]] = True
    per = 4 // asked.width
    return {
        name: Answers(asked.right(found[name]), touched[name].view(len(tried[name]), len(asked), per).any(-1).sum(-1))
        for name in saes
    }


def _alike(tried: Sequence[Tried]) -> list[tuple[CodeEdit, list[int]]]:
    """Each different edit with the settings that it serves."""
    served: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, setting in enumerate(tried):
        served.setdefault((setting.features, setting.multiplier), []).append(i)
    return [(tried[alike[0]].edit, alike) for alike in served.values()]
