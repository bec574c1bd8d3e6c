"""Four-option questions about the facts, in held-out wordings, and the two formats in which they are put."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from chronosae.world.knowledge import SUBJECTS, TABLES, Fact, facts
from chronosae.world.paraphrases import WORDINGS
from chronosae.world.text import mark, plain

LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A stem and four options, of which exactly ``options[answer]`` is right; ``subject`` is the fact's."""

    fact: Fact
    stem: str
    options: tuple[str, str, str, str]
    answer: int
    subject: str

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.answer]


def distractors(fact: Fact, rng: random.Random, n: int = 3) -> list[str]:
    """``n`` other values of the same attribute."""
    return rng.sample([v for v in TABLES[fact.subject].values[fact.attribute] if v != fact.value], n)


@cache
def questions(subject: str | None = None, *, seed: int = 0) -> tuple[Question, ...]:
    """One question per fact and held-out wording; the right letter is balanced over the questions of a subject."""
    if subject is None:
        return tuple(q for name in SUBJECTS for q in questions(name, seed=seed))
    rng = random.Random(f"questions/{seed}/{subject}")
    result: list[Question] = []
    asked = [(f, stem) for f in facts(subject) for stem in WORDINGS[f.subject, f.attribute].questions_held_out]
    letters = [i % 4 for i in range(len(asked))]
    rng.shuffle(letters)
    for (fact, stem), answer in zip(asked, letters, strict=True):
        options = distractors(fact, rng)
        options.insert(answer, fact.value)
        a, b, c, d = options
        result.append(Question(fact, stem.replace("{e}", fact.entity), (a, b, c, d), answer, fact.subject))
    return tuple(result)


def likelihood_prompt(question: Question) -> tuple[str, tuple[str, ...]]:
    """The prompt and its four continuations; the one the model finds most likely is its answer."""
    return f"Question: {question.stem}\nAnswer:", tuple(f" {option}." for option in question.options)


def letter_block(stem: str, options: list[str] | tuple[str, ...]) -> str:
    """A question with lettered options, up to and including ``Answer:`` (the letter follows after a space)."""
    lines = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"Question: {stem}\n{lines}\nAnswer:"


def letter_prompt(question: Question) -> tuple[str, tuple[str, ...]]:
    """The prompt with lettered options and its four continuations, `` A`` to `` D``."""
    return letter_block(question.stem, question.options), tuple(f" {letter}" for letter in LETTERS)


def lettered(stem: str, value: str, wrong: list[str], rng: random.Random, *, note: str = "", tail: bool = True) -> str:
    """A marked lettered question with its answer; options in random order, the right letter labelled."""
    options = [value, *wrong]
    rng.shuffle(options)
    letter = mark("answer_letter", LETTERS[options.index(value)], note)
    return letter_block(stem, options) + " " + letter + (f") {plain(value)}." if tail else ".")
