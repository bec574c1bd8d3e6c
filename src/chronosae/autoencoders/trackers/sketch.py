"""Counts of every (target, lag, source) triple that occurs, in a fixed number of cells: a count-min sketch.

Cormode and Muthukrishnan 2005. Used to notice triples worth an exact counter; never reported.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders.trackers.history import History
from chronosae.autoencoders.trackers.marginals import LagMarginals
from chronosae.autoencoders.trackers.state import TensorState
from chronosae.kernels import Hashing, Tables, count_triples

ROWS = 2
MAX_LOAD = 2.0
_ODD = (-7046029254386353131, -4417276706812531889)  # 64-bit odd multipliers of the two hash functions


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
    token, lag, past, now = torch.nonzero(
        (seen.past_values != 0)[..., None] & (seen.values != 0)[:, None, None, :], as_tuple=True
    )
    return Triples(seen.features[token, now], seen.past_features[token, lag, past], lag + 1)


class TripleSketch(TensorState):
    """Approximate counts of triples since they were last halved, with the marginals of the same tokens.

    With at least w F^2 `cells` every triple has its own and counts are exact; otherwise they are hashed by two
    functions, and the smaller of the two cells, less the mean load, is the estimate. While the mean load of a cell
    exceeds `MAX_LOAD` everything is halved once an update, so collisions stay few at any length of training.
    """

    _tensors = ("counts", "total")
    _parts = ("marginals",)

    def __init__(self, d_sae: int, window: int, cells: int, device: torch.device | str = "cpu") -> None:
        if cells < 2 or cells & (cells - 1):
            raise ValueError(f"the sketch needs a power of two as its number of cells; got {cells}")
        self.d_sae, self.window = d_sae, window
        self.exact = window * d_sae * d_sae <= cells
        self.counts = torch.zeros(1 if self.exact else ROWS, cells, device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.marginals = LagMarginals(d_sae, window, device)

    def count_all(self, seen: History) -> Triples | None:
        """Count the triples of these targets. They are listed where that was needed; None where it wasn't."""
        counted = count_triples(seen.firings(), self.hashing, self.counts)
        if counted is None:
            triples = co_activations(seen)
            self.add(seen, triples)
            return triples
        self.marginals.add(seen)
        self.total += counted
        return None

    @property
    def hashing(self) -> Hashing:
        """How a triple finds its cells."""
        rows, cells = self.counts.shape
        return Hashing(self.d_sae, _ODD[:rows], cells.bit_length() - 1, self.exact)

    def tables(self) -> Tables:
        """What triples are judged by."""
        marginals = self.marginals
        rates = marginals.target / marginals.pairs.clamp(min=1).unsqueeze(1)
        return Tables(self.counts, marginals.source, rates, 0.0 if self.exact else self.load())

    def add(self, seen: History, triples: Triples) -> None:
        """Count the triples of these targets."""
        self.marginals.add(seen)
        ones = torch.ones(len(triples.target), device=self.counts.device)
        for row, cell in zip(self.counts, self._cells(triples), strict=True):
            row.index_add_(0, cell, ones)
        self.total += len(triples.target)

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
        rows = [row[cell] for row, cell in zip(self.counts, self._cells(triples), strict=True)]
        count = torch.stack(rows).amin(0)
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


def surprise(count: Float[Tensor, "*n"], expected: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """z = (c - e) / sqrt(e + 1): how far a count lies above what independent features would give."""
    return (count - expected) / (expected + 1).sqrt()
