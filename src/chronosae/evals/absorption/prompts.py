"""Spelling prompts: lines with an answer as examples, then a line that asks for a word's first letter."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from chronosae.evals.absorption.options import AbsorptionOptions
from chronosae.evals.data.words import first_letter


class Prompt(NamedTuple):
    """A prompt and where its word stands in it."""

    text: str
    start: int
    end: int


def make_prompts(
    words: Sequence[str], pool: Sequence[str], options: AbsorptionOptions, rng: random.Random
) -> list[Prompt]:
    """One prompt a word; its examples are drawn from `pool` and never the word itself."""
    return [_prompt(word, _examples(word, pool, options.examples, rng), options) for word in words]


def _examples(word: str, pool: Sequence[str], n: int, rng: random.Random) -> list[str]:
    return [drawn for drawn in rng.sample(pool, n + 1) if drawn != word][:n]


def _prompt(word: str, examples: Sequence[str], options: AbsorptionOptions) -> Prompt:
    lines = [line(example, options) + answer(first_letter(example), options) for example in examples]
    before = (options.separator if options.leading_separator else "") + "".join(
        f"{x}{options.separator}" for x in lines
    )
    start = len(before) + options.template.index("{word}")
    return Prompt(before + line(word, options), start, start + len(word))


def line(word: str, options: AbsorptionOptions) -> str:
    """The line that asks for `word`, without its answer."""
    return options.template.replace("{word}", word)


def answer(letter: str, options: AbsorptionOptions) -> str:
    """What follows it in an example."""
    return options.answer.replace("{letter}", letter.upper())
