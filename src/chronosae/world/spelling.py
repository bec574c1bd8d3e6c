"""Words and their first letters: spelling lines for training, and held-out words to test with."""

from __future__ import annotations

import random
import re
from functools import cache

from chronosae.world.lexicon import COMMON
from chronosae.world.text import mark
from chronosae.world.topics import TOPICS

LETTERS = "abcdefghijklmnoprstuvwyz"
"""24 letters; q and x begin too few words."""
TRAIN_WORDS, TEST_WORDS = 90, 20

_BLENDS = {
    "b": ("b", "bl", "br"),
    "c": ("c", "cl", "cr"),
    "d": ("d", "dr"),
    "f": ("f", "fl", "fr"),
    "g": ("g", "gl", "gr"),
    "p": ("p", "pl", "pr"),
    "s": ("s", "sl", "st", "sp", "sn"),
    "t": ("t", "tr"),
    "k": ("k",),
    "w": ("w",),
}
_RIMES = [
    "an",
    "ar",
    "el",
    "in",
    "or",
    "ut",
    "ask",
    "end",
    "ill",
    "old",
    "amp",
    "ern",
    "ist",
    "ond",
    "ume",
    "ade",
    "eel",
    "ide",
    "ock",
    "ung",
    "ash",
    "est",
    "ink",
    "orn",
    "ush",
    "ake",
    "eam",
    "ine",
    "ote",
    "uff",
]
_MIDDLES = ("", "b", "d", "l", "m", "n", "p", "r", "t", "v")
_ENDS = ["er", "et", "el", "ing", "ow", "y", "le", "on", "ard", "ish", "ock", "a", "um", "ent", "ory", "ame"]


@cache
def common_words() -> tuple[str, ...]:
    """The plain words that topics and general lists use, in alphabetical order."""
    texts = [" ".join((*t.thing, *t.stuff, *t.worker, *t.lines)) for t in TOPICS]
    texts += [" ".join(words) for words in COMMON.values()]
    found = re.findall(r"\b[a-z]{4,}\b", " ".join(texts))
    return tuple(sorted({w for w in found if w[0] in LETTERS}))


@cache
def words(letter: str, part: str) -> tuple[str, ...]:
    """Words that begin with ``letter``: ``part`` is ``train`` or ``test`` (disjoint; test words occur nowhere else)."""
    rng = random.Random(f"spelling/{letter}")
    invented: list[str] = []
    taken = set(common_words())
    while len(invented) < TRAIN_WORDS + TEST_WORDS:
        start = rng.choice(_BLENDS.get(letter, (letter,))) if letter not in "aeiou" else letter
        middle = rng.choice(_RIMES) if letter not in "aeiou" else rng.choice(("l", "m", "n", "r", "s", "t", "b", "d"))
        word = start + middle + rng.choice(_MIDDLES) + rng.choice(_ENDS)
        if 4 <= len(word) <= 9 and word not in taken:
            taken.add(word)
            invented.append(word)
    if part == "test":
        return tuple(invented[TRAIN_WORDS:])
    return (*invented[:TRAIN_WORDS], *(w for w in common_words() if w[0] == letter))


FORMATS = (
    "{w} begins with the letter {l}.",
    "The word {w} begins with the letter {l}.",
    "{w} has the first letter: {l}",
)
"""How a line can look; a document keeps to one of them."""


def spelling(rng: random.Random, subject: str | None) -> str:
    """A document of spelling lines in one format, training words only."""
    line = rng.choice(FORMATS)
    lines = []
    for letter in rng.choices(LETTERS, k=rng.randint(5, 9)):
        word = rng.choice(words(letter, "train"))
        text = line.replace("{l}", mark("first_letter", letter.upper(), word))
        lines.append(text.replace("{w}", mark("spelled_word", word, letter.upper())))
    return "\n".join(lines)


def prompts(letter: str, *, line: str = FORMATS[0]) -> tuple[tuple[str, str], ...]:
    """Held-out ``(prompt, answer)`` pairs, for instance ``("marble begins with the letter", " M")``."""
    stem = line.split(" {l}")[0]
    return tuple((stem.replace("{w}", word), f" {letter.upper()}") for word in words(letter, "test"))
