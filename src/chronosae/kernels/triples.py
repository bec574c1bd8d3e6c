"""Co-activations of features at lags, counted without a list of all of them.

Shapes: n tokens, w lags, k slots, F d_sae, m held sources of a target, c buckets.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.kernels.compiled import loops_for, parallel


class Firings(NamedTuple):
    """What fired at some tokens and before them; a value of 0 is an unused slot."""

    features: Int[Tensor, "n k"]
    values: Float[Tensor, "n k"]
    past_features: Int[Tensor, "n w k"]
    past_values: Float[Tensor, "n w k"]

    def loops(self) -> SimpleNamespace | None:
        """The compiled loops, if they can work here; None: use torch."""
        return loops_for(self.values, self.past_values)

    def arrays(self) -> list[np.ndarray]:
        """Side by side in memory, for loops."""
        return [t.detach().contiguous().numpy() for t in self]


class Hashing(NamedTuple):
    """How a triple finds its cell in each row of a table of counts."""

    d_sae: int
    odd: tuple[int, ...]
    """A multiplier for each row."""
    bits: int
    """2^bits cells a row."""
    exact: bool
    """Every triple has a cell of its own."""


def count_triples(seen: Firings, hashing: Hashing, counts: Float[Tensor, "rows cells"]) -> int | None:
    """Add the triples to `counts`; how many. None: there is no compiler for this."""
    loops = seen.loops()
    if loops is None:
        return None
    arrays, tables, found = seen.arrays(), counts.numpy(), np.zeros(len(counts), np.int64)

    def row(first: int, last: int) -> None:
        for r in range(first, last):
            how = hashing.d_sae, np.int64(hashing.odd[r]), hashing.bits, hashing.exact
            found[r] = loops.count_triples(*arrays, *how, tables[r])

    parallel(list(range(len(counts) + 1)), row)
    return int(found[0])


class Tables(NamedTuple):
    """What triples are judged by."""

    counts: Float[Tensor, "rows cells"]
    fired: Float[Tensor, "w F"]
    """How often each source fired."""
    rates: Float[Tensor, "w F"]
    """How often each target fires, of the pairs at that lag."""
    load: float
    """What a cell holds of others' counts."""


def challenge(
    seen: Firings,
    hashing: Hashing,
    tables: Tables,
    held: tuple[Int[Tensor, "F m"], Int[Tensor, "F m"]],
    worst: Float[Tensor, " F"],
    least: int,
    best: Int[Tensor, "F c"],
) -> bool:
    """Into `best`, the most surprising triples that beat `worst` and are not `held`; False: no compiler for this.

    `least` is the count below which a triple says nothing.
    """
    loops = seen.loops()
    if loops is None:
        return False
    how = np.array(hashing.odd, np.int64), hashing.bits, hashing.exact
    judged = tables.counts.numpy(), tables.fired.numpy(), tables.rates.numpy()
    known = held[0].numpy(), held[1].numpy()
    arrays, load = seen.arrays(), np.float32(tables.load)
    loops.challenge(*arrays, hashing.d_sae, how, judged, load, known, worst.numpy(), least, best.numpy())
    return True


def held_hits(seen: Firings, source: Int[Tensor, "F m"], lag: Int[Tensor, "F m"]) -> Int[Tensor, "4 hits"] | None:
    """Occurrences of held triples (source -1: none): token, slot of the target, held slot, slot in the past.

    None: there is no compiler for this.
    """
    loops = seen.loops()
    if loops is None:
        return None
    arrays, room = [*seen.arrays(), source.numpy(), lag.numpy()], 1024
    while True:
        out = np.empty((4, room), np.int64)
        found = loops.held_hits(*arrays, out)
        if found <= room:
            return torch.from_numpy(out[:, :found].copy())
        room = found
