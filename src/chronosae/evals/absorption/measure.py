"""What absorption measures: does the subject spell, which features stand for a letter, which carry it in their place.

Full and fractional absorption are those of Chanin et al. (arXiv 2409.14507) and SAEBench.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import one_hot

from chronosae.autoencoders import Autoencoder, SparseCodes
from chronosae.config import UserError
from chronosae.evals.absorption.data import AbsorptionOptions, Asked, Read, answer, choose_words, draws
from chronosae.evals.absorption.probes import LetterProbe, Training, f1, fit_probe
from chronosae.evals.data.questions import first_letter
from chronosae.evals.probes import fit_logistic
from chronosae.evals.workbench import Workbench

ASKED = 300
"""Words that are asked: enough to tell from chance."""
LOGITS = 2**26
"""Logits held at once."""
SIGNIFICANT = 0.01
SPARSE_L2 = 1e-6
"""SAEBench's weight decay of the probe on codes."""


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


@dataclass(frozen=True)
class Known:
    """What the activations say about the letters: the probe that every autoencoder is measured against."""

    probe: LetterProbe
    says: Bool[Tensor, "words letters"]
    """On the test words."""
    f1: Float[Tensor, " letters"]
    kept: Int[Tensor, " kept"]
    """Letters whose F1 is large enough."""


class SparseProbes(NamedTuple):
    """For each letter and k from 1 to K: what a logistic regression on the letter's k leading features says."""

    features: Int[Tensor, "letters K"]
    """Leading features of each letter, the first the most telling."""
    says: Bool[Tensor, "words letters K"]
    """Test words that the probe with k features (index k - 1) takes for the letter's."""


@dataclass(frozen=True)
class LetterScores:
    """One autoencoder. Letters are the kept ones, words the test words; index k - 1 is for k split features."""

    probes: SparseProbes
    true: Bool[Tensor, "words letters"]
    """The word's own letter, where it is kept."""
    counted: Bool[Tensor, "words letters"]
    """And the probe on activations says so: the words that absorption is measured on."""
    fraction: Float[Tensor, "words K"]
    full: Float[Tensor, "words K"]
    jump: float

    @cached_property
    def scores(self) -> Float[Tensor, "letters K"]:
        """F1 of each letter's k-sparse probes on the test words."""
        return self.resampled(torch.ones(1, len(self.true), dtype=torch.float64))[0]

    @property
    def k(self) -> Int[Tensor, " letters"]:
        """Split features of each letter."""
        return choose_k(self.scores, self.jump)

    def at_k(self, values: Float[Tensor, "words K"]) -> Float[Tensor, "words letters"]:
        """Values of the counted words with their letter's number of split features; 0 elsewhere."""
        return values[:, self.k - 1] * self.counted

    def resampled(self, counts: Float[Tensor, "resamples words"]) -> Float[Tensor, "resamples letters K"]:
        """The same with each word counted so often."""
        said, true = self.probes.says.double(), self.true.double().unsqueeze(2)
        shape = (len(counts), *said.shape[1:])
        hits = (counts @ (said * true).flatten(1)).view(shape)
        total = (counts @ (said + true).flatten(1)).view(shape)
        return 2 * hits / total.clamp(min=1)


@dataclass(frozen=True)
class Measured:
    """What the results of all autoencoders rest on, and the scores of each."""

    asked: Asked
    spelling: Spelling
    known: Known | None = None
    """None where the subject doesn't spell."""
    shared: float = 0.0
    """Share of the test words whose tokens up to the one that is read also begin a train word."""
    scores: Mapping[str, LetterScores | str] = field(default_factory=dict)
    """By autoencoder; the flag that says why where there are none. Empty where too few letters are known."""


def measure(options: AbsorptionOptions, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
    """Ask the subject, train the probe on activations, then score every autoencoder."""
    asked = Asked(options, bench, choose_words(options, bench))
    spelling = _ask(options, bench, asked)
    if not spelling.knows:
        return Measured(asked, spelling)
    read = asked.read(saes)
    known = know(read, len(asked.letters), options, draws(options, bench, "probe"))
    shared = float(torch.isin(read.test.units, read.train.units).double().mean())
    scores: dict[str, LetterScores | str] = {}
    if len(known.kept) >= options.min_letters:
        for done, (name, sae) in enumerate(saes.items()):
            bench.progress("absorption: sparse probes", done, len(saes))
            scores[name] = _score(options, bench, known, read, name, sae)
    return Measured(asked, spelling, known, shared, scores)


def _score(
    options: AbsorptionOptions, bench: Workbench, known: Known, read: Read, name: str, sae: Autoencoder
) -> LetterScores | str:
    parts = (read.train, read.test, read.again)
    if not all(part.codes[name].values.isfinite().all() for part in parts):
        return "non_finite_codes: codes at some word hold NaN or Inf"
    # Not by the autoencoder's name: the same one scores the same under any.
    splits = find_splits(read, name, len(known.f1), options, draws(options, bench, "splits"))
    if splits is None:
        return "never_fires: no feature fired at any train word"
    return score_letters(known, splits, read, name, sae, options)


def _ask(options: AbsorptionOptions, bench: Workbench, asked: Asked) -> Spelling:
    """Ask the subject for the first letters of the first `ASKED` test words; it chooses among the letters.

    Raises:
        UserError: the letters aren't different tokens after this template.
    """
    rows, words, letters = asked.rows["test"], asked.words["test"], asked.letters
    tokens = torch.tensor(_letter_tokens(bench.subject.tokenizer, letters, options))
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


def _letter_tokens(tokenizer: Any, letters: Sequence[str], options: AbsorptionOptions) -> list[int]:
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


def know(read: Read, n_letters: int, options: AbsorptionOptions, g: torch.Generator) -> Known:
    """Train the probe on activations and see which letters it knows."""
    how = _training(options)._replace(l2=options.probe_weight_decay)
    probe = fit_probe(read.train.acts, read.train.letters, n_letters, how, g)
    says = probe.logits(read.test.acts) > 0
    scores = f1(says, one_hot(read.test.letters, n_letters).bool())
    return Known(probe, says, scores, (scores > options.min_probe_f1).nonzero().squeeze(1))


def _training(options: AbsorptionOptions) -> Training:
    saebench = options.protocol == "saebench"
    steps = 0 if saebench else options.probe_steps
    return Training(options.probe_epochs, options.probe_batch, steps=steps, random_start=saebench)


def find_splits(
    read: Read, name: str, n_letters: int, options: AbsorptionOptions, g: torch.Generator
) -> SparseProbes | None:
    """Rank features by an L1 probe on all letters' codes and fit the k-sparse probes; None where no feature fires."""
    saebench = options.protocol == "saebench"
    train, train_codes, test_codes = read.train, read.train.codes[name], read.test.codes[name]
    fired = train_codes.fired() > 0
    if not fired.any():
        return None
    if not saebench:
        # The L1 weight means the same whatever the units of the codes.
        rms = train_codes.values[train_codes.values != 0].square().mean().sqrt()
        train_codes, test_codes = (replace(codes, values=codes.values / rms) for codes in (train_codes, test_codes))
    how = _training(options)._replace(l1=options.sparse_probe_l1, l2=SPARSE_L2)
    probe = fit_probe(train_codes, train.letters, n_letters, how, g)
    features = leading_features(probe.weight, options.max_k, None if saebench else fired)
    return sparse_probes(features, train_codes, train.letters, test_codes)


def score_letters(
    known: Known, splits: SparseProbes, read: Read, name: str, sae: Autoencoder, options: AbsorptionOptions
) -> LetterScores:
    """Measure absorption of the kept letters on the words whose letter the probe knows."""
    letters, codes = read.test.letters, read.again.codes[name]
    own = one_hot(letters, known.says.shape[1]).bool()
    b_dec = None if options.protocol == "saebench" else sae.b_dec.detach().cpu()
    along = project(codes, letters, read.again.acts, known.probe.weight, sae.W_dec.detach().cpu(), b_dec)
    found = absorbed(codes, along, splits.features[letters], options)
    kept = SparseProbes(splits.features[known.kept], splits.says[:, known.kept])
    true = own[:, known.kept]
    counted = true & known.says[:, known.kept]
    return LetterScores(kept, true, counted, found.fraction, found.full.double(), options.f1_jump_threshold)


def leading_features(
    weight: Float[Tensor, "d_sae letters"], k: int, allowed: Bool[Tensor, " d_sae"] | None = None
) -> Int[Tensor, "letters K"]:
    """The features of largest weight, sign and all: features that speak for the letter, not against it.

    At most `k`, and no more than are allowed.
    """
    if allowed is not None:
        weight = weight.masked_fill(~allowed.unsqueeze(1), -torch.inf)
        k = min(k, int(allowed.sum()))
    return weight.T.topk(min(k, len(weight)), dim=1).indices


def sparse_probes(
    features: Int[Tensor, "letters K"],
    train: SparseCodes,
    train_letters: Int[Tensor, " words"],
    test: SparseCodes,
) -> SparseProbes:
    """Fit scikit-learn's balanced logistic regression (L2, C = 1) to each letter's first k features, for every k."""
    n_letters, largest = features.shape
    says = torch.zeros(len(test.values), n_letters, largest, dtype=torch.bool)
    for letter in range(n_letters):
        x, y = _columns(train, features[letter]).numpy(), (train_letters == letter).numpy()
        asked = _columns(test, features[letter]).numpy()
        for k in range(1, largest + 1):
            # As in SAEBench, 500 iterations have to do.
            probe = fit_logistic(x[:, :k], y, max_iter=500, class_weight="balanced")
            says[:, letter, k - 1] = torch.from_numpy(probe.predict(asked[:, :k]))
    return SparseProbes(features, says)


def _columns(codes: SparseCodes, features: Int[Tensor, " K"]) -> Float[Tensor, "words K"]:
    """Codes of some features."""
    return torch.stack([codes.at(int(feature)) for feature in features], 1)


def choose_k(scores: Float[Tensor, "*resamples letters K"], jump: float) -> Int[Tensor, "*resamples letters"]:
    """How many features are split features: further ones as long as each raises F1 by more than `jump`."""
    best = torch.full_like(scores[..., 0], -torch.inf)
    k = torch.zeros_like(best, dtype=torch.long)
    going = torch.ones_like(best, dtype=torch.bool)
    for score in scores.unbind(-1):
        going = going & (score > best + jump)
        k = k + going
        best = torch.where(going, score, best)
    return k


class Absorbed(NamedTuple):
    """Index k - 1: the letter's first k leading features are its split features."""

    fraction: Float[Tensor, "words K"]
    """Share of the letter that other features carry, 0 to 1."""
    full: Bool[Tensor, "words K"]
    """The split features are silent and one other feature carries the letter."""


class Along(NamedTuple):
    """Features and activations along the direction of each word's own letter."""

    projected: Float[Tensor, "words slots"]
    """What each active feature writes along the direction."""
    cosine: Float[Tensor, "words slots"]
    """Cosine of its decoder row with the direction."""
    activation: Float[Tensor, " words"]
    """What there is to write."""


def project(
    codes: SparseCodes,
    letters: Int[Tensor, " words"],
    acts: Float[Tensor, "words d_in"],
    directions: Float[Tensor, "d_in letters"],
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"] | None,
) -> Along:
    """Project on the directions of the probe.

    With `b_dec`: what features write into the raw activation (code x decoder row x `codes.scale`), against the raw
    activation minus what b_dec writes. Without: SAEBench's code x cosine against the raw activation, which assumes
    decoder rows of norm 1, codes in the units of the activations, and a b_dec orthogonal to the probe.
    """
    unit = directions / directions.norm(dim=0, keepdim=True)
    written = W_dec.float() @ unit
    cosine = written / W_dec.float().norm(dim=1, keepdim=True).clamp_min(1e-8)
    own = letters.unsqueeze(1)
    activation = (acts * unit.T[letters]).sum(1)
    if b_dec is None:
        return Along(codes.values * cosine[codes.indices, own], cosine[codes.indices, own], activation)
    assert codes.scale is not None
    projected = codes.values * written[codes.indices, own] * codes.scale.unsqueeze(1)
    bias = codes.scale * (b_dec.float() @ unit)[letters]
    return Along(projected, cosine[codes.indices, own], activation - bias)


def absorbed(codes: SparseCodes, along: Along, leading: Int[Tensor, "words K"], options: AbsorptionOptions) -> Absorbed:
    """Absorption as Chanin et al. (arXiv 2409.14507) and SAEBench define it; `leading` is each word's own letter's."""
    split = torch.zeros_like(codes.values, dtype=torch.bool)
    found = []
    for k in range(leading.shape[1]):
        split = split | (codes.indices == leading[:, k : k + 1])
        found.append((_fraction(along, split, options), _full(codes, along, split, options)))
    fraction, full = zip(*found, strict=True)
    return Absorbed(torch.stack(fraction, 1), torch.stack(full, 1))


def _fraction(along: Along, split: Bool[Tensor, "words slots"], options: AbsorptionOptions) -> Float[Tensor, " words"]:
    """a / (a + m): m the split features' projection; a the absorbers', at most what m leaves of the activation's."""
    projected, there = along.projected.double(), along.activation.double()
    main = torch.where(split, projected, 0).sum(1)
    absorbing = ~split & (along.cosine >= options.fraction_min_cosine) & (projected > 0)
    slots = min(options.max_absorbers, projected.shape[1])
    absorbers = torch.where(absorbing, projected, 0).topk(slots, dim=1).values.sum(1)
    enough = (there > 0) & (absorbers >= options.min_projection_share * there)
    part = torch.minimum(absorbers, there - main)
    fraction = torch.where(main <= 0, 1.0, part / (part + main).clamp_min(torch.finfo(torch.float64).tiny))
    return torch.where(enough & (main < there), fraction, 0.0)


def _full(
    codes: SparseCodes, along: Along, split: Bool[Tensor, "words slots"], options: AbsorptionOptions
) -> Bool[Tensor, " words"]:
    silent = ~(split & (codes.values >= options.silent_below)).any(1)
    top, where = along.projected.double().max(1)
    aligned = along.cosine.gather(1, where.unsqueeze(1)).squeeze(1) >= options.full_min_cosine
    there = along.activation.double()
    return silent & aligned & (there > 0) & (top >= options.min_projection_share * there)
