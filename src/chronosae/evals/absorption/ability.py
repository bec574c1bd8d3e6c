"""Does the subject spell? Its choice among the letters after each prompt, against chance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.stats import binomtest

from chronosae.config import UserError
from chronosae.evals.absorption.options import AbsorptionOptions
from chronosae.evals.absorption.prompts import answer
from chronosae.evals.data.words import first_letter
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

ASKED = 300
"""Words that are asked: enough to tell from chance."""
LOGITS = 2**26
"""Logits held at once."""
SIGNIFICANT = 0.01


class Spelling(NamedTuple):
    """How often the right letter was the subject's first choice among the letters."""

    accuracy: float
    chance: float
    """Share of the commonest first letter among the words that were asked."""
    p_value: float
    """Of so many right answers or more at `chance`, by the binomial distribution."""
    n: int

    @property
    def knows(self) -> bool:
        """Above chance."""
        return self.p_value < SIGNIFICANT


def ask(
    bench: Workbench, rows: TokenRows, words: Sequence[str], letters: Sequence[str], options: AbsorptionOptions
) -> Spelling:
    """Ask the subject for the first letters of the first `ASKED` words; it chooses among `letters`.

    Raises:
        UserError: the letters aren't different tokens after this template.
    """
    tokens = torch.tensor(letter_tokens(bench.subject.tokenizer, letters, options))
    n = min(ASKED, len(words))
    wanted = [letters.index(first_letter(word)) for word in words[:n]]
    size = max(1, LOGITS // (rows.tokens.shape[1] * bench.subject.vocab_size))
    chosen: list[int] = []
    for start in range(0, n, size):
        part = rows.rows(torch.arange(start, min(start + size, n)))
        logits = bench.subject.logits(part.tokens, part.real)
        last = logits[torch.arange(len(part)), part.lengths - 1].cpu()
        chosen += last[:, tokens].argmax(-1).tolist()
        bench.progress("absorption: asking the subject", len(chosen), n)
    hits = sum(a == b for a, b in zip(chosen, wanted, strict=True))
    chance = max(wanted.count(letter) for letter in set(wanted)) / n
    return Spelling(hits / n, chance, float(binomtest(hits, n, chance, alternative="greater").pvalue), n)


def letter_tokens(tokenizer: Any, letters: Sequence[str], options: AbsorptionOptions) -> list[int]:
    """The token with which the answer of each letter begins, after the end of the template."""
    tail = options.template.split("{word}")[1]

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids if text else []

    before = ids(tail)
    with_answer = [ids(tail + answer(letter, options)) for letter in letters]
    found = [row[len(before)] for row in with_answer if row[: len(before)] == before and len(row) > len(before)]
    if len(set(found)) < len(letters):
        raise UserError(
            f"evals.absorption.answer: after {tail!r}, {options.answer!r} doesn't begin with another token for each"
            " letter; move the space between evals.absorption.template and answer, as in ': ' and '{letter}'"
        )
    return found
