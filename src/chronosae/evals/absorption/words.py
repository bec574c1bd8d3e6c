"""Which words are asked: train words for the probes, test words to measure with."""

import random
from collections import Counter
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from chronosae.config import UserError
from chronosae.evals.absorption.options import AbsorptionOptions
from chronosae.evals.data.words import WORDS, first_letter
from chronosae.evals.workbench import Workbench

NAME, KEY = "absorption", "evals.absorption.data"
VOCABULARY = "vocabulary"
TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Words:
    """Words of both parts, in random order, and the letters that both parts have."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    letters: tuple[str, ...]
    absent: tuple[str, ...]
    """The letters of the alphabet that are left out because a part has too few words."""


def choose_words(options: AbsorptionOptions, bench: Workbench) -> Words:
    """The words of both parts; a letter needs two train words and a test word.

    Raises:
        UserError: no word list, or too few words for one prompt with examples.
    """
    rng = random.Random(bench.generator(NAME, WORDS.label(options.data), "words").initial_seed())
    if options.data == VOCABULARY:
        tokens = alphabetic_tokens(bench.subject.tokenizer)
        rng.shuffle(tokens)
        cut = int(TRAIN_SHARE * len(tokens))
        train, test = tokens[:cut], tokens[cut:]
    else:
        train, test = ([*WORDS.read(options.data, part, KEY).words] for part in ("train", "test"))
    train, test = (_balanced(part, n, rng) for part, n in ((train, options.train_words), (test, options.test_words)))
    counts = [Counter(map(first_letter, part)) for part in (train, test)]
    letters = tuple(c for c in ascii_lowercase if counts[0][c] >= 2 and counts[1][c] >= 1)
    found = [tuple(word for word in part if first_letter(word) in letters) for part in (train, test)]
    if len(letters) < 2 or min(map(len, found)) <= options.examples:
        raise UserError(
            f"{KEY}: {options.data} has {len(found[0])} train and {len(found[1])} test words of {len(letters)} letters,"
            f" too few for prompts with {options.examples} examples; give a longer list or lower"
            " evals.absorption.examples"
        )
    return Words(found[0], found[1], letters, tuple(c for c in ascii_lowercase if c not in letters))


def alphabetic_tokens(tokenizer: Any) -> list[str]:
    """SAEBench's words: the tokens that are letters a to z, with or without one space before them."""
    texts = {tokenizer.decode([i]) for i in range(len(tokenizer))}
    return sorted(t for t in texts if t.removeprefix(" ").isascii() and t.removeprefix(" ").isalpha())


def _balanced(words: list[str], n: int | None, rng: random.Random) -> list[str]:
    """At most `n` words in random order: the first of each letter, the second of each letter, and so on."""
    order = rng.sample(words, len(words))
    if n is None or len(order) <= n:
        return order
    seen: Counter[str] = Counter()
    place: dict[str, int] = {}
    for word in order:
        letter = first_letter(word)
        place[word] = seen[letter]
        seen[letter] += 1
    kept = set(sorted(order, key=place.__getitem__)[:n])
    return [word for word in order if word in kept]
