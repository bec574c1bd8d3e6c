"""First-letter absorption: read words in spelling prompts, probe, measure."""

import hashlib
import random
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.evals.absorption.ability import ask
from chronosae.evals.absorption.options import AbsorptionOptions
from chronosae.evals.absorption.outcome import Report
from chronosae.evals.absorption.prompts import make_prompts
from chronosae.evals.absorption.reading import Read, read_prompts, read_words, word_tokens
from chronosae.evals.absorption.scoring import (
    Known,
    find_splits,
    finite_codes,
    intervals,
    know,
    number_units,
    score_letters,
    shared_units,
)
from chronosae.evals.absorption.words import KEY, NAME, VOCABULARY, Words, choose_words
from chronosae.evals.data.words import WORDS, first_letter
from chronosae.evals.evaluation import EVALUATIONS, Evaluation
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench


@EVALUATIONS.add
class AbsorptionEvaluation(AbsorptionOptions, Evaluation):
    """First-letter features that go silent where a more specific feature carries the letter.

    Does a feature that stands for a first letter go silent where a more specific feature fires?
    """

    name = NAME
    eval_type_id = "absorption_first_letter"
    undefined = -1

    def preflight(self, setting: Setting) -> list[Missing]:
        missing = None if self.data == VOCABULARY else WORDS.missing(self.data, KEY)
        return [] if missing is None else [missing]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        started = time.perf_counter()
        words = choose_words(self, bench)
        asked = Asked(self, bench, words)
        report = Report(self, bench, words.letters, asked.token_pos, asked.sha256())
        report.asked(ask(bench, asked.rows["test"], words.test, words.letters, self))
        found = {name: report.empty() for name in saes}
        if not report.failed:
            read = asked.read(saes)
            known = know(read, len(words.letters), self, _generator(bench, self, "probe"))
            report.probed(known, words.absent, shared_units(read))
            for done, (name, sae) in enumerate(saes.items()):
                bench.progress("absorption: sparse probes", done, len(saes))
                found[name] = _measured(report, known, read, name, sae)
        seconds = time.perf_counter() - started
        return {name: result.after(seconds) for name, result in found.items()}


def _measured(report: Report, known: Known, read: Read, name: str, sae: Autoencoder) -> EvalResult:
    options, bench = report.options, report.bench
    if report.failed:
        return report.empty()
    if not finite_codes(read, name):
        return report.empty("non_finite_codes: codes at some word hold NaN or Inf")
    # Not by the autoencoder's name: the same one scores the same under any.
    splits = find_splits(read, name, len(known.f1), options, _generator(bench, options, "splits"))
    if splits is None:
        return report.empty("never_fires: no feature fired at any train word")
    scores = score_letters(known, splits, read, name, sae, options)
    seed = _generator(bench, options, "bootstrap").initial_seed()
    return report.scored(scores, known.kept.tolist(), intervals(scores, read.test.units, seed))


class Asked:
    """The prompts of all parts: `train`, `test`, and `again`, on which absorption is measured.

    `again` is `test` itself; SAEBench draws new examples for it, from the words of both parts.
    """

    def __init__(self, options: AbsorptionOptions, bench: Workbench, words: Words) -> None:
        self.bench = bench
        self.words = {"train": words.train, "test": words.test, "again": words.test}
        self.letters = words.letters
        pools: dict[str, Sequence[str]] = {"train": words.train, "test": words.test}
        if options.protocol == "saebench":
            pools["again"] = (*words.train, *words.test)
        self.rows: dict[str, TokenRows] = {}
        self.positions: dict[str, Tensor] = {}
        tokens = []
        for part, pool in pools.items():
            rng = random.Random(_generator(bench, options, "examples", part).initial_seed())
            prompts = make_prompts(self.words[part], pool, options, rng)
            self.rows[part] = read_prompts(bench, prompts)
            self.positions[part], of_words = word_tokens(self.rows[part], prompts, options.token)
            tokens.append(of_words)
        self.units = dict(zip(pools, number_units(*tokens), strict=True))

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


def _generator(bench: Workbench, options: AbsorptionOptions, *labels: str) -> torch.Generator:
    return bench.generator(NAME, WORDS.label(options.data), *labels)
