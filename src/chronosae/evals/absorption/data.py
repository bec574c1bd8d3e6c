"""What absorption reads: options, words, spelling prompts, and activations and codes at one token of each word."""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import pad

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.config import UserError
from chronosae.evals.data.questions import WORDS, first_letter
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

NAME, KEY = "absorption", "evals.absorption.data"
VOCABULARY = "vocabulary"
TRAIN_SHARE = 0.8

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class AbsorptionOptions(EvalOptions):
    """First-letter absorption: `evals.absorption`. The numbers are SAEBench's where it has them."""

    data: str = "world/words"
    """A registered word list, a local file with one word a line, or `vocabulary`: the tokenizer's alphabetic tokens."""
    protocol: Literal["chronosae", "saebench"] = "chronosae"
    """`saebench` also repeats what docs/evaluations/absorption.md lists as wrong there."""
    template: str = "{word} has the first letter:"
    """A line of the prompt up to its answer."""
    answer: str = " {letter}"
    """What follows it in the examples; `{letter}` is the capital first letter. What is asked for is its first token."""
    separator: str = "\n"
    """Between lines."""
    leading_separator: bool = True
    """A separator before the first line too."""
    examples: Annotated[int, Field(ge=0)] = 5
    """Lines with an answer before the one that is asked; SAEBench has 10."""
    token: Literal["first", "last"] = "first"
    """Token of the word that is read; the same one where words are single tokens, as in SAEBench."""
    train_words: Positive | None = 2000
    """At most so many words for the probes, as many of each letter as there are; null: all, as SAEBench."""
    test_words: Positive | None = 500
    """At most so many words to measure with; null: all."""
    min_probe_f1: Share = 0.6
    """A letter counts where the probe on activations has a larger F1 on test words (SAEBench: min_GT_probe_f1)."""
    min_letters: Annotated[int, Field(ge=1, le=26)] = 20
    """With fewer letters there is no score (SAEBench: min_feats_for_eval)."""
    probe_epochs: Positive = 50
    """Passes over the words in which a probe is trained."""
    probe_batch: Positive = 4096
    """Words a step of that training."""
    probe_steps: Annotated[int, Field(ge=0)] = 500
    """At least so many steps, more epochs where the words are few; `protocol: saebench` has no such floor."""
    probe_weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 of the probe on activations."""
    sparse_probe_l1: Annotated[float, Field(ge=0)] = 0.01
    """L1 of the probe on codes, which ranks the features of a letter (SAEBench: k_sparse_probe_l1_decay)."""
    max_k: Positive = 10
    """Largest number of split features of a letter (SAEBench: max_k_value)."""
    f1_jump_threshold: Share = 0.03
    """A further feature is a split feature where it raises F1 by more."""
    silent_below: Annotated[float, Field(gt=0)] = 1e-8
    """A feature is silent with a smaller code."""
    full_min_cosine: Share = 0.025
    """Full absorption: smallest cosine of the absorbing feature with the probe."""
    fraction_min_cosine: Share = 0.1
    """Absorption fraction: smallest cosine of an absorbing feature with the probe."""
    min_projection_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Both: smallest share of the activation's projection that absorbing features make up."""
    max_absorbers: Positive = 3
    """Absorption fraction: most features that absorb together."""

    @field_validator("template")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if value.count("{word}") != 1:
            raise ValueError("must contain {word} exactly once")
        return value

    @field_validator("answer")
    @classmethod
    def _one_letter(cls, value: str) -> str:
        if value.count("{letter}") != 1:
            raise ValueError("must contain {letter} exactly once")
        return value


def draws(options: AbsorptionOptions, bench: Workbench, *labels: str) -> torch.Generator:
    """Randomness that depends on the seed, the words and `labels`, and not on an autoencoder's name."""
    return bench.generator(NAME, WORDS.label(options.data), *labels)


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
    rng = random.Random(draws(options, bench, "words").initial_seed())
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
    lines = [_line(one, options) + answer(first_letter(one), options) for one in examples]
    before = (options.separator if options.leading_separator else "") + "".join(
        f"{x}{options.separator}" for x in lines
    )
    start = len(before) + options.template.index("{word}")
    return Prompt(before + _line(word, options), start, start + len(word))


def _line(word: str, options: AbsorptionOptions) -> str:
    """The line that asks for `word`, without its answer."""
    return options.template.replace("{word}", word)


def answer(letter: str, options: AbsorptionOptions) -> str:
    """What follows it in an example."""
    return options.answer.replace("{letter}", letter.upper())


@dataclass(frozen=True)
class AtWords:
    """What stands at the chosen token of each word; one entry a word, on the CPU."""

    letters: Int[Tensor, " words"]
    """Index of the first letter among the evaluated letters."""
    units: Int[Tensor, " words"]
    """Words with the same number look the same to the subject up to the chosen token."""
    acts: Float[Tensor, "words d_in"]
    codes: Mapping[str, SparseCodes]
    """By autoencoder; `scale` is what a code of 1 is worth in raw activations, [words]."""

    def __len__(self) -> int:
        return len(self.letters)


@dataclass(frozen=True)
class Read:
    """All parts of the words."""

    train: AtWords
    test: AtWords
    again: AtWords
    """The test words in the prompts on which absorption is measured: `test` itself, or others (SAEBench)."""


def read_prompts(bench: Workbench, prompts: Sequence[Prompt]) -> TokenRows:
    """The prompts as token rows.

    Raises:
        UserError: one of them is longer than the subject's context.
    """
    rows = bench.read([prompt.text for prompt in prompts], bench.subject.max_context)
    if rows.truncated.any():
        raise UserError(
            f"evals.absorption.examples: a prompt is longer than the subject's {bench.subject.max_context} tokens;"
            " ask for fewer examples"
        )
    return rows


def word_tokens(rows: TokenRows, prompts: Sequence[Prompt], which: str) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Position of each word's `first` or `last` token, and the word's tokens up to it.

    Raises:
        UserError: autoencoders don't see that token.
    """
    spans = [rows.span(i, prompt.start, prompt.end) for i, prompt in enumerate(prompts)]
    ends = [1 if which == "first" else len(span) for span in spans]
    positions = torch.tensor([span[end - 1] for span, end in zip(spans, ends, strict=True)])
    if not rows.mask[torch.arange(len(rows)), positions].all():
        raise UserError(
            "evals.absorption.examples: without examples the word stands where autoencoders see nothing (the first"
            " position); ask for at least one example"
        )
    return positions, [
        tuple(rows.tokens[i, s[:end]].tolist()) for i, (s, end) in enumerate(zip(spans, ends, strict=True))
    ]


def read_words(
    bench: Workbench,
    rows: TokenRows,
    positions: Int[Tensor, " words"],
    letters: Int[Tensor, " words"],
    units: Int[Tensor, " words"],
    saes: Mapping[str, Autoencoder],
    what: str,
) -> AtWords:
    """Activations, and codes of every autoencoder, at `positions` of whole prompts."""
    acts = torch.zeros(len(rows), bench.subject.info.d_model)
    parts: dict[str, list[SparseCodes]] = {name: [] for name in saes}
    order: list[Tensor] = []
    for part, codes in bench.encoded(rows, saes, what):
        here = positions[part.index]
        acts[part.index] = part.batch.acts[torch.arange(len(here)), here].float().cpu()
        order.append(part.index)
        for name, code in codes.items():
            parts[name].append(codes_at(saes[name], code, here))
    back = torch.cat(order).argsort()
    return AtWords(letters, units, acts, {name: _joined(found, back) for name, found in parts.items()})


def codes_at(sae: Autoencoder, codes: Codes, positions: Int[Tensor, " batch"]) -> SparseCodes:
    """Codes at one position of each sequence, with as many slots as the fullest needs, on the CPU."""
    positions = positions.to(codes.values.device)
    rows = torch.arange(len(positions), device=positions.device)
    values = codes.values[rows, positions].detach().float()
    if isinstance(codes, SparseCodes):
        indices = codes.indices[rows, positions]
    else:
        slots = max(1, int((values != 0).sum(-1).max()))
        indices = values.abs().topk(slots, dim=-1).indices.sort(dim=-1).values
        values = values.gather(-1, indices)
    worth = torch.full_like(values[:, 0], 1 / sae.cfg.normalisation.factor)
    if codes.scale is not None:
        worth = 1 / codes.scale[rows, positions].float()
    return SparseCodes(values.cpu(), worth.cpu(), indices.cpu(), codes.d_sae)


def _joined(parts: Sequence[SparseCodes], order: Int[Tensor, " words"]) -> SparseCodes:
    slots = max(part.values.shape[1] for part in parts)
    values, indices = (
        torch.cat([pad(getattr(part, name), (0, slots - part.values.shape[1])) for part in parts])[order]
        for name in ("values", "indices")
    )
    scales = [part.scale for part in parts if part.scale is not None]
    return SparseCodes(values, torch.cat(scales)[order], indices, parts[0].n_features)


class Asked:
    """The prompts of all parts: `train`, `test`, and `again`, on which absorption is measured.

    `again` is `test` itself; SAEBench draws new examples for it, from the words of both parts.
    """

    def __init__(self, options: AbsorptionOptions, bench: Workbench, words: Words) -> None:
        self.bench = bench
        self.letters, self.absent = words.letters, words.absent
        self.words = {"train": words.train, "test": words.test, "again": words.test}
        pools: dict[str, Sequence[str]] = {"train": words.train, "test": words.test}
        if options.protocol == "saebench":
            pools["again"] = (*words.train, *words.test)
        self.rows: dict[str, TokenRows] = {}
        self.positions: dict[str, Tensor] = {}
        tokens = []
        for part, pool in pools.items():
            rng = random.Random(draws(options, bench, "examples", part).initial_seed())
            prompts = make_prompts(self.words[part], pool, options, rng)
            self.rows[part] = read_prompts(bench, prompts)
            self.positions[part], of_words = word_tokens(self.rows[part], prompts, options.token)
            tokens.append(of_words)
        numbers: dict[tuple[int, ...], int] = {}  # the same number for the same tokens, over all parts
        self.units = {
            part: torch.tensor([numbers.setdefault(row, len(numbers)) for row in rows])
            for part, rows in zip(pools, tokens, strict=True)
        }

    @property
    def token_pos(self) -> int:
        """Where the word stands in the first test prompt, counted from its end, as SAEBench counts."""
        return int(self.positions["test"][0] - self.rows["test"].lengths[0])

    def sha256(self) -> str:
        """Hash of all prompts, positions and letters."""
        digest = hashlib.sha256()
        for part, rows in self.rows.items():
            digest.update(f"{part} {rows.sha256()} {self.positions[part].tolist()} {self.words[part]}".encode())
        return digest.hexdigest()

    def read(self, saes: Mapping[str, Autoencoder]) -> Read:
        """Activations and codes of all parts."""
        found = {}
        for part, rows in self.rows.items():
            letters = torch.tensor([self.letters.index(first_letter(word)) for word in self.words[part]])
            what = f"absorption: {part} words"
            found[part] = read_words(self.bench, rows, self.positions[part], letters, self.units[part], saes, what)
        return Read(found["train"], found["test"], found.get("again", found["test"]))
