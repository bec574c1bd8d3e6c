"""The world's words under the name by which evaluations ask for word lists."""

from __future__ import annotations

from functools import cache

from chronosae.evals.data.words import WORDS, WordList
from chronosae.world.spelling import LETTERS, words

A_LETTER = {"train": 60, "test": 20}
"""Words of each letter. Those for the test occur nowhere in the corpus."""


@cache
def _words(split: str) -> WordList:
    found = (word for letter in LETTERS for word in words(letter, split)[: A_LETTER[split]])
    return WordList("world/words", tuple(found))


def register_words() -> None:
    """Make `world/words` a name that word lists know."""
    WORDS.register("world/words", _words)
