"""How often features fire a few tokens after one another: exactly for each feature, roughly for every triple.

The rough part is a count-min sketch (Cormode and Muthukrishnan 2005): a fixed number of cells that every (target, lag,
source) triple shares. It is used to notice triples worth an exact counter, and never reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.kernels import Hashing, Judged, Marginals, count_marginals, count_of, count_triples, empty_table
from chronosae.objectives.history import History
from chronosae.objectives.tracker import TensorState

ROWS = 2
MAX_LOAD = 2.0
_ODD = (-7046029254386353131, -4417276706812531889)  # 64-bit odd multipliers of the two hash functions


class LagMarginals(TensorState):
    """Per lag l = 1..w (row l - 1): N_l pairs (t - l, t), n_j(l) of them with j firing at t - l, m_i(l) with i at t."""

    _tensors = ("source", "target", "pairs")

    def __init__(self, d_sae: int, window: int, device: torch.device | str = "cpu") -> None:
        self.source = torch.zeros(window, d_sae, dtype=torch.float64, device=device)
        self.target = torch.zeros(window, d_sae, dtype=torch.float64, device=device)
        self.pairs = torch.zeros(window, dtype=torch.float64, device=device)

    def add(self, seen: History) -> None:
        """Count these targets."""
        if count_marginals(seen.firings(), seen.valid, self.counted()):
            return
        for lag in range(len(self.pairs)):
            past = seen.past_features[:, lag][seen.past_values[:, lag] != 0]
            now = seen.features[(seen.values != 0) & seen.valid[:, lag, None]]
            self.source[lag] += torch.bincount(past, minlength=self.source.shape[1])
            self.target[lag] += torch.bincount(now, minlength=self.source.shape[1])
        self.pairs += seen.valid.sum(0)

    def rate(self, feature: Int[Tensor, "*n"], lag: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Firing probability of a target over pairs at that lag (0 before any)."""
        return self.target[lag - 1, feature] / self.pairs[lag - 1].clamp(min=1)

    def counted(self) -> Marginals:
        """What was counted, as kernels take it."""
        return Marginals(self.source, self.target, self.pairs)

    def halve(self) -> None:
        """Forget half of what was counted."""
        for tensor in (self.source, self.target, self.pairs):
            tensor.mul_(0.5)


@dataclass(frozen=True)
class Triples:
    """Co-activations: feature `source` fired `lag` positions before feature `target`."""

    target: Int[Tensor, " n"]
    source: Int[Tensor, " n"]
    lag: Int[Tensor, " n"]

    def __getitem__(self, chosen: Tensor) -> "Triples":
        return Triples(self.target[chosen], self.source[chosen], self.lag[chosen])


def co_activations(seen: History) -> Triples:
    """Every triple of the given targets, one entry an occurrence, a feature with itself included."""
    token, now, lag, past = torch.nonzero(
        (seen.values != 0)[:, :, None, None] & (seen.past_values != 0)[:, None], as_tuple=True
    )
    return Triples(seen.features[token, now], seen.past_features[token, lag, past], lag + 1)


class TripleSketch(TensorState):
    """Approximate counts of triples since they were last halved, with the marginals of the same tokens.

    With at least w F^2 `cells` every triple has its own and counts are exact; otherwise they are hashed by two
    functions, and the smaller of the two cells, less the mean load, is the estimate. While the mean load of a cell
    exceeds `MAX_LOAD` everything is halved once an update, so collisions stay few at any length of training.
    """

    _tensors = ("counts", "total")
    _parts: ClassVar[Mapping[str, str]] = {"marginals": "marginals"}

    def __init__(self, d_sae: int, window: int, cells: int, device: torch.device | str = "cpu") -> None:
        if cells < 2 or cells & (cells - 1):
            raise ValueError(f"the sketch needs a power of two as its number of cells; got {cells}")
        self.d_sae, self.window = d_sae, window
        self.exact = window * d_sae * d_sae <= cells
        self.counts = empty_table(1 if self.exact else ROWS, cells, device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.marginals = LagMarginals(d_sae, window, device)

    def count_all(self, seen: History) -> tuple[Triples | None, Tensor]:
        """Count the triples of these targets: a list of them, and what the cells of each, [rows, ...], then held.

        None instead of the list where it wasn't needed. A triple's last occurrence counts all of them.
        """
        self.marginals.add(seen)
        after = count_triples(seen.firings(), self.hashing, self.counts)
        if after is not None:
            self.total += count_of(seen.firings())
            return None, after
        triples = co_activations(seen)
        self.total += len(triples.target)
        return triples, self.add(triples)

    @property
    def hashing(self) -> Hashing:
        """How a triple finds its cells."""
        rows, cells = self.counts.shape
        return Hashing(self.d_sae, _ODD[:rows], cells.bit_length() - 1, self.exact)

    def judged(self, least: int) -> Judged:
        """What triples are judged by; a count below `least` says nothing."""
        return Judged(self.marginals.counted(), 0.0 if self.exact else self.load(), least)

    def add(self, triples: Triples) -> Float[Tensor, "rows n"]:
        """Count these triples, one after another; what the cells of each held once it was counted."""
        after = self.counts.new_empty(len(self.counts), len(triples.target))
        ones = torch.ones_like(after[0])
        for row, cell, held in zip(self.counts, self._cells(triples), after, strict=True):
            held.copy_(row[cell] + _occurrence(cell))
            row.index_add_(0, cell, ones)
        return after

    def forget(self) -> None:
        """Halve everything once the cells are too full."""
        if not self.exact and self.load() > MAX_LOAD:
            self.halve()

    def halve(self) -> None:
        """Forget half of what was counted."""
        self.counts.mul_(0.5)
        self.total.mul_(0.5)
        self.marginals.halve()

    def load(self) -> float:
        """Mean count of a cell."""
        return float(self.total) / self.counts.shape[1]

    def count(self, triples: Triples) -> Float[Tensor, " n"]:
        """Estimated occurrences."""
        cells = self._cells(triples)
        return self.estimate(torch.stack([row[cell] for row, cell in zip(self.counts, cells, strict=True)]))

    def estimate(self, held: Float[Tensor, "rows n"]) -> Float[Tensor, " n"]:
        """Occurrences of triples whose cells held this."""
        count = held.amin(0)
        return count if self.exact else (count - self.load()).clamp(min=0)

    def expected(self, triples: Triples) -> Float[Tensor, " n"]:
        """Occurrences that independent features would have had on the same tokens."""
        fired = self.marginals.source[triples.lag - 1, triples.source]
        return fired * self.marginals.rate(triples.target, triples.lag)

    def _cells(self, triples: Triples) -> list[Int[Tensor, " n"]]:
        key = (triples.target * self.window + triples.lag - 1) * self.d_sae + triples.source
        cells = self.counts.shape[1]
        if self.exact:
            return [key]
        # Multiply-shift hashing (Dietzfelbinger et al. 1997): the product wraps, its top bits are the cell.
        bits = cells.bit_length() - 1
        return [((key * odd) >> (64 - bits)) & (cells - 1) for odd in _ODD]


def _occurrence(keys: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """1 for the first of equal keys, 2 for the second."""
    ordered, order = keys.sort(stable=True)
    number = torch.arange(1, len(keys) + 1, device=keys.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(number).scatter_(0, order, number)


def surprise(count: Float[Tensor, "*n"], expected: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """z = (c - e) / sqrt(e + 1): how far a count lies above what independent features would give."""
    return (count - expected) / (expected + 1).sqrt()
