"""Co-activations of features at lags, counted and judged without a list of all of them.

Triples (target, lag, source) in a table of counts, and each target's own few regressors (a feature at a lag): which of
them fired together, and with the target. Where there is no compiler, callers count with torch instead.

Shapes: n tokens, w lags, k slots, F d_sae, m held sources of a target, c buckets, r regressors of a target.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import loops
from chronosae.kernels.dispatch import compiled_kernels, evenly, parallel, recycled

# Tokens whose firings are marked at once: two words of bits.
MARKED = 128


class Firings(NamedTuple):
    """What fired at some tokens and before them; a value of 0 is an unused slot."""

    features: Int[Tensor, "n k"]
    values: Float[Tensor, "n k"]
    past_features: Int[Tensor, "n w k"]
    past_values: Float[Tensor, "n w k"]

    @property
    def compiled(self) -> bool:
        """Whether compiled loops can work here; else use torch."""
        return compiled_kernels(self.values, self.past_values)

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

    def arrays(self) -> tuple[np.ndarray, np.uint64, bool]:
        """For loops: multipliers, the bits of a product that are no part of the cell, exact."""
        return np.array(self.odd, np.int64).view(np.uint64), np.uint64(64 - self.bits), self.exact


class Marginals(NamedTuple):
    """How often features fired at lags before tokens, and at tokens, of the pairs that count."""

    source: Float[Tensor, "w F"]
    target: Float[Tensor, "w F"]
    pairs: Float[Tensor, " w"]

    def arrays(self) -> tuple[np.ndarray, ...]:
        """For loops."""
        return tuple(t.numpy() for t in self)


class Held(NamedTuple):
    """Held triples of each target (source -1: none): counts since they came, and what was thought of them before."""

    source: Int[Tensor, "F m"]
    lag: Int[Tensor, "F m"]
    counted: Float[Tensor, "F m"]
    source_before: Float[Tensor, "F m"]
    prior_count: Float[Tensor, "F m"]
    prior_expected: Float[Tensor, "F m"]

    def arrays(self) -> tuple[np.ndarray, ...]:
        """For loops."""
        return tuple(t.numpy() for t in self)


class Judged(NamedTuple):
    """What triples are judged by."""

    marginals: Marginals
    """Of the tokens whose triples are in the table."""
    load: float
    """What a cell holds of others' counts."""
    least: int
    """Count below which a triple says nothing."""

    def arrays(self) -> tuple[tuple[np.ndarray, ...], np.float32, int]:
        """For loops."""
        return self.marginals.arrays(), np.float32(self.load), self.least


class Standing(NamedTuple):
    """z of what targets hold, found when first asked for."""

    worst: Float[Tensor, " F"]
    """Of the worst slot; NaN where nobody asked."""
    z: Float[Tensor, "F m"]
    """Of every slot; anything where nobody asked."""


def unknown(held: Int[Tensor, "F m"]) -> Standing:
    """That of targets which hold these, before anyone asks."""
    worst = blank((len(held),), np.nan, torch.float64, held.device)
    if held.device.type != "cpu":
        return Standing(worst, held.new_empty(held.shape, dtype=torch.float64))
    return Standing(worst, recycled(tuple(held.shape), torch.float64))


def blank(shape: tuple[int, ...], value: float | int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of one value; on the CPU without torch's threads, which take longer to wake than this."""
    if device.type != "cpu":
        return torch.full(shape, value, dtype=dtype, device=device)
    out = torch.empty(shape, dtype=dtype)
    out.numpy().fill(value)
    return out


def empty_table(rows: int, cells: int, device: torch.device | str) -> Float[Tensor, "rows cells"]:
    """Zeros; large ones on the CPU in large pages, as cells far apart are counted up."""
    if torch.device(device).type != "cpu":
        return torch.zeros(rows, cells, device=device)
    return recycled((rows, cells), torch.float32).zero_()


def count_marginals(seen: Firings, valid: Bool[Tensor, "n w"], marginals: Marginals) -> bool:
    """Add to `marginals` what fired at these tokens and before them; False: there is no compiler for this."""
    if not seen.compiled:
        return False
    loops.counting.count_marginals(*seen.arrays(), valid.contiguous().numpy(), *marginals.arrays())
    return True


def count_triples(
    seen: Firings, hashing: Hashing, counts: Float[Tensor, "rows cells"]
) -> Float[Tensor, "rows n k wk"] | None:
    """Add the triples to `counts`; what the cells of each then held, itself included.

    Triples come token by token, those of one target after another. None: there is no compiler for this.
    """
    if not seen.compiled:
        return None
    (n, k), (_, w, past) = seen.features.shape, seen.past_features.shape
    arrays, tables, after = seen.arrays(), counts.numpy(), recycled((len(counts), n, k, w * past), torch.float32)
    odds, bits, exact = hashing.arrays()
    # Where each triple has its own cell, targets can be shared out; else the tables can.
    parts = torch.get_num_threads() if exact else len(counts)

    def count(first: int, last: int) -> None:
        for p in range(first, last):
            row, part = (0, (p, parts)) if exact else (p, (0, 1))
            how = hashing.d_sae, odds[row], bits, exact, part
            loops.counting.count_triples(*arrays, *how, tables[row], after[row].numpy())

    parallel(list(range(parts + 1)), count)
    return after


def count_of(seen: Firings) -> int:
    """How many triples there are."""
    return int(((seen.past_values != 0).sum((1, 2)) * (seen.values != 0).sum(1)).sum())


def challenge(
    seen: Firings,
    after: Float[Tensor, "rows n k wk"],
    judged: Judged,
    held: tuple[Held, Marginals],
    standing: Standing,
    best: Int[Tensor, "F c"],
) -> None:
    """Into `best`, the most surprising triples that beat their target's worst slot and are not held.

    `after`: of `count_triples`. `standing` of the targets that get challenged becomes known.
    """
    assert seen.compiled, "what was counted by loops is judged by loops"
    slots, marginals = (each.arrays() for each in held)
    before = *seen.arrays(), len(standing.worst), after.numpy(), judged.arrays(), slots, marginals
    parts, known = torch.get_num_threads(), tuple(t.numpy() for t in standing)

    def judge(first: int, last: int) -> None:
        for p in range(first, last):
            loops.triples.challenge(*before, (p, parts), known, best.numpy())

    parallel(list(range(parts + 1)), judge)


def admit(
    best: Int[Tensor, "F c"],
    hashing: Hashing,
    counts: Float[Tensor, "rows cells"],
    judged: Judged,
    held: tuple[Held, Marginals],
    standing: Standing,
    averages: tuple[Float[Tensor, "F m"], Int[Tensor, "F m"]],
) -> bool:
    """Give the slots of each challenged target to the most surprising; False: there is no compiler for this.

    What stays keeps its slot. averages: what else a slot holds and a newcomer doesn't, its average and its step.
    """
    if not compiled_kernels(counts):
        return False
    slots, fired = held[0].arrays(), held[1].source.numpy()
    tables = hashing.d_sae, hashing.arrays(), counts.numpy(), judged.arrays()
    before = best.numpy(), *tables, slots, tuple(t.numpy() for t in averages), fired, standing.z.numpy()
    parallel(evenly(len(best), 2048), lambda a, b: loops.triples.admit(*before, a, b))
    return True


def held_hits(seen: Firings, source: Int[Tensor, "F m"], lag: Int[Tensor, "F m"]) -> Int[Tensor, "4 hits"] | None:
    """Occurrences of held triples (source -1: none): token, slot of the target, held slot, slot in the past.

    None: there is no compiler for this.
    """
    if not seen.compiled:
        return None
    arrays = [*seen.arrays(), source.numpy(), lag.numpy()]
    bounds = evenly(len(seen.values), 64)
    found: dict[int, np.ndarray] = {}

    def look(first: int, last: int) -> None:
        place = np.zeros(seen.past_features.shape[1] * len(source), np.int32)
        room = 1024
        while True:
            out = np.empty((4, room), np.int64)
            hits = loops.triples.held_hits(*arrays, place, first, last, out)
            if hits <= room:
                found[first] = out[:, :hits]
                return
            room = hits

    parallel(bounds, look)
    return torch.from_numpy(np.concatenate([found[first] for first in bounds[:-1]], axis=1))


def count_regressors(
    seen: Firings,
    full: Bool[Tensor, " n"],
    regressors: tuple[Int[Tensor, "F r"], Int[Tensor, "F r"]],
    joint: Float[Tensor, "F r r"],
    with_target: Float[Tensor, "F r"],
    target: Float[Tensor, " F"],
) -> bool:
    """Add the tokens that are `full` to the counts of regressors that fired; False: there is no compiler for this.

    regressors: source (-1: none) and lag. joint: two of them together; with_target: one with its target; target: alone.
    """
    if not seen.compiled:
        return False
    firings, whole = seen.arrays(), full.contiguous().numpy()
    lags, d_sae = seen.past_features.shape[1], len(target)
    given, counters = [t.numpy() for t in regressors], [t.numpy() for t in (joint, with_target, target)]
    for start in range(0, len(whole), MARKED):
        low, high, now = (np.zeros(s, np.uint64) for s in (lags * d_sae, lags * d_sae, (2, d_sae)))
        loops.counting.mark_firings(*(t[start : start + MARKED] for t in [*firings, whole]), low, high, now)
        words = low, high, now
        parallel(
            evenly(d_sae, 64),
            lambda a, b, words=words: loops.counting.count_regressors(*given, *words, a, b, *counters),
        )
    return True
