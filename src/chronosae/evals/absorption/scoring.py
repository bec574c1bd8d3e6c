"""The score of one autoencoder from activations and codes at words: no subject, no text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from chronosae.autoencoders import Autoencoder, SparseCodes
from chronosae.evals.absorption.measures import absorbed, project
from chronosae.evals.absorption.options import AbsorptionOptions
from chronosae.evals.absorption.probes import LetterProbe, Training, f1, fit_probe
from chronosae.evals.absorption.reading import Read
from chronosae.evals.absorption.splits import SparseProbes, choose_k, leading_features, sparse_probes
from chronosae.evals.bootstrap import Interval, bootstrap

INTERVALS = ("mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features")
SPARSE_L2 = 1e-6
"""SAEBench's weight decay of the probe on codes."""


@dataclass(frozen=True)
class Known:
    """What the activations say about the letters: the probe that every autoencoder is measured against."""

    probe: LetterProbe
    says: Bool[Tensor, "words letters"]
    """On the test words."""
    f1: Float[Tensor, " letters"]
    kept: Int[Tensor, " kept"]
    """Letters whose F1 is large enough."""


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
        return self._scores(torch.ones(1, len(self.true), dtype=torch.float64))[0]

    @property
    def k(self) -> Int[Tensor, " letters"]:
        """Split features of each letter."""
        return choose_k(self.scores, self.jump)

    def at_k(self, values: Float[Tensor, "words K"]) -> Float[Tensor, "words letters"]:
        """Values of the counted words with their letter's number of split features; 0 elsewhere."""
        return values[:, self.k - 1] * self.counted

    def means(self, counts: Float[Tensor, "resamples words"]) -> dict[str, Float[Tensor, " resamples"]]:
        """SAEBench's means over letters by its names, with each word counted so often.

        The split features by which absorption is measured stay those of all words; their number is counted anew. A
        letter of which a resample has no word has no rate there and is left out.
        """
        counted = counts @ self.counted.double()
        return {
            "mean_absorption_fraction_score": (counts @ self.at_k(self.fraction) / counted).nanmean(1),
            "mean_full_absorption_score": (counts @ self.at_k(self.full) / counted).nanmean(1),
            "mean_num_split_features": choose_k(self._scores(counts), self.jump).double().mean(1),
        }

    def _scores(self, counts: Float[Tensor, "resamples words"]) -> Float[Tensor, "resamples letters K"]:
        said, true = self.probes.says.double(), self.true.double().unsqueeze(2)
        shape = (len(counts), *said.shape[1:])
        hits = (counts @ (said * true).flatten(1)).view(shape)
        total = (counts @ (said + true).flatten(1)).view(shape)
        return 2 * hits / total.clamp(min=1)


def know(read: Read, n_letters: int, options: AbsorptionOptions, g: torch.Generator) -> Known:
    """Train the probe on activations and see which letters it knows."""
    saebench = options.protocol == "saebench"
    how = Training(
        options.probe_epochs,
        options.probe_batch,
        l2=options.probe_weight_decay,
        steps=0 if saebench else options.probe_steps,
        random_start=saebench,
    )
    probe = fit_probe(read.train.acts, read.train.letters, n_letters, how, g)
    says = probe.logits(read.test.acts) > 0
    scores = f1(says, one_hot(read.test.letters, n_letters).bool())
    return Known(probe, says, scores, (scores > options.min_probe_f1).nonzero().squeeze(1))


def finite_codes(read: Read, name: str) -> bool:
    """No code at any word is NaN or infinite."""
    parts = (read.train, read.test, read.again)
    return all(bool(part.codes[name].values.isfinite().all()) for part in parts)


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
        train_codes, test_codes = _divided(train_codes, rms), _divided(test_codes, rms)
    how = Training(
        options.probe_epochs,
        options.probe_batch,
        l1=options.sparse_probe_l1,
        l2=SPARSE_L2,
        steps=0 if saebench else options.probe_steps,
        random_start=saebench,
    )
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


def intervals(scores: LetterScores, units: Int[Tensor, " words"], seed: int) -> dict[str, Interval]:
    """95 % intervals of the means; words with the same tokens up to the one that is read are drawn together."""
    groups = units.unique(return_inverse=True)[1]
    n = int(groups.max()) + 1

    def of(metric: str) -> Callable[[Tensor], Tensor]:
        return lambda counts: scores.means(counts[:, groups])[metric]

    found = {metric: bootstrap(of(metric), n, seed) for metric in INTERVALS}
    return {metric: interval for metric, interval in found.items() if interval is not None}


def shared_units(read: Read) -> float:
    """Share of the test words whose tokens up to the one that is read also begin a train word."""
    return float(torch.isin(read.test.units, read.train.units).double().mean())


def number_units(*tokens: Sequence[tuple[int, ...]]) -> list[Int[Tensor, " words"]]:
    """The same number for the same tokens, over all lists."""
    numbers: dict[tuple[int, ...], int] = {}
    return [torch.tensor([numbers.setdefault(row, len(numbers)) for row in part]) for part in tokens]


def _divided(codes: SparseCodes, by: Tensor) -> SparseCodes:
    return SparseCodes(codes.values / by, codes.scale, codes.indices, codes.n_features)
