"""Question-and-answer documents: plain questions, and lettered ones from easy to hard.

The lettered format is hard for a small model: it must recall the value, find it among the options and read off the
letter before it. Easy stages teach the last two steps alone: the value is named in the question, or stated just before.
"""

from __future__ import annotations

import random

from chronosae.world.documents.prose import some_fact
from chronosae.world.facts import SUBJECTS, TABLES
from chronosae.world.lexicon import COMMON
from chronosae.world.paraphrases import ask, state
from chronosae.world.questions import LETTERS, distractors, lettered
from chronosae.world.spelling import common_words
from chronosae.world.text import mark

NAMED = ("Which option says {v}?", "Which of these is {v}?", "Where does it say {v}?", "Find {v}.")


def quiz(rng: random.Random, subject: str | None) -> str:
    """Questions with their answers in words."""
    lines = []
    for _ in range(rng.randint(3, 6)):
        fact = some_fact(rng, subject or rng.choice(SUBJECTS))
        value = mark("fact_value", fact.value, fact.key)
        lines.append(f"Question: {ask(fact, rng)}\nAnswer: {value}.")
    return "\n".join(lines)


def _lettered(rng: random.Random, subject: str | None, n_options: int, help_kind: str) -> str:
    fact = some_fact(rng, subject or rng.choice(SUBJECTS))
    wrong = distractors(fact, rng, n_options - 1)
    if help_kind == "named":
        stem = rng.choice(NAMED).replace("{v}", fact.value)
        return lettered(stem, fact.value, wrong, rng, note="named")
    item = lettered(ask(fact, rng), fact.value, wrong, rng, note=help_kind)
    return f"{state(fact, rng)}\n{item}" if help_kind == "open" else item


_PHRASES = tuple(v for table in TABLES.values() for values in table.values.values() for v in values)
_LOOKUPS = ("So {v} {l}", "So {v} {l}", "{v}: {l}", "Question: {v}?\nAnswer: {l}")


def lookup(rng: random.Random, subject: str | None) -> str:
    """A list of options and then many look-ups of their letters, from the shortest form to the form of a question.

    This is the densest way to teach how to find an option and read off its letter; single words come first to mind
    because a match of one token is the easiest to learn.
    """
    pool = common_words() if rng.random() < 0.6 else (*_PHRASES, *COMMON["items"])
    options = rng.sample(pool, rng.choice((2, 3, 4, 4)))
    lines = ["Options:", *(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))]
    form = rng.choice(_LOOKUPS)
    for _ in range(rng.randint(4, 8)):
        i = rng.randrange(len(options))
        lines.append(form.replace("{v}", options[i]).replace("{l}", mark("answer_letter", LETTERS[i], "lookup")))
    return "\n".join(lines)


def named(rng: random.Random, subject: str | None) -> str:
    """Lettered items whose stem names the option to find, with two to four options."""
    n = rng.choice((2, 3, 4, 4))
    return "\n".join(_lettered(rng, subject, n, "named") for _ in range(rng.randint(2, 4)))


def open_book(rng: random.Random, subject: str | None) -> str:
    """Lettered questions right after a sentence that gives the answer away."""
    n = rng.choice((2, 3, 4, 4))
    return "\n".join(_lettered(rng, subject, n, "open") for _ in range(rng.randint(1, 3)))


def letters(rng: random.Random, subject: str | None) -> str:
    """Lettered questions from memory, with four options."""
    return "\n".join(_lettered(rng, subject, 4, "closed") for _ in range(rng.randint(1, 4)))
