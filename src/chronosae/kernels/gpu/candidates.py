"""All entries of a row that may be among its k largest, in the order of their indices: two passes, no sorting.

The first pass finds the maxima of G interleaved groups. The k-th largest of these is reached by at least k entries: a
lower bound on the row's k-th largest. The second lists the few entries that reach it.

Where entries are known only to within `slack` of exact ones, both ends are widened by it (see `kernels.low_precision`).

Shapes: N tokens, F d_sae, R room.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.entries import NOTHING, Extras, entries, keys
from chronosae.kernels.gpu.launch import launch, power_of_two
from chronosae.kernels.gpu.ordered import LOWEST, kth_largest, ordered_key, value_of


class Candidates(NamedTuple):
    """Feature indices, ascending, the first `counts` of each row; a count above the room says that there were more."""

    indices: Int[Tensor, "n r"]
    counts: Int[Tensor, " n"]

    @property
    def overfull(self) -> Tensor:
        """Rows with more candidates than there is room for."""
        return self.counts > self.indices.shape[1]


def room_for(k: int, d_sae: int) -> int:
    """Candidates that a row may have."""
    return power_of_two(min(4 * k + 128, d_sae))


def candidates(
    s: Float[Tensor, "n f"],
    k: int,
    extras: Extras = NOTHING,
    slack: Float[Tensor, " n"] | None = None,
) -> Candidates:
    """What may be among the k largest positive entries of `s` with its extras, which are within `slack` of exact ones.

    Arguments:
        s: not float64.
        slack: by token; NaN, Inf and more than 1e37 make a row overfull. For bfloat16 entries their own rounding comes
            on top, and must not be part of it. None: entries are exact.
    """
    n, d_sae = s.shape
    found = torch.empty(n, room_for(k, d_sae), dtype=torch.int32, device=s.device)
    counts = torch.empty(n, dtype=torch.int32, device=s.device)
    block = power_of_two(min(d_sae, 8 * k), min(1024, power_of_two(d_sae)), 8192)
    # Twice a rounding to nearest.
    rounding = 2.0**-8 * 1.01 if slack is not None and s.dtype == torch.bfloat16 else 2.0**-22
    sizes, constants = (n, d_sae, k, found.shape[1]), {"BLOCK": block, **extras.constants}
    warps = 4 if block <= 1024 else 8
    launch(_candidates, (n,), s, *extras, slack, found, counts, *sizes, ROUNDING=rounding, num_warps=warps, **constants)
    if slack is None:
        launch(_flooded, (n,), s, *extras, found, counts, *sizes, num_warps=8, **constants)
    return Candidates(found, counts)


@triton.jit
@no_type_check
def _keys(s, t, f, n, d_sae, bias, taps, sources, gates, gate_rows, LAGS: tl.constexpr):
    inside = f < d_sae
    values = entries(s, t, f, inside, n, d_sae, bias, taps, sources, LAGS)
    return keys(values, t, f, inside, d_sae, gates, gate_rows)


@triton.jit
@no_type_check
def _candidates(
    s,
    bias,
    taps,
    sources,
    gates,
    gate_rows,
    slack,
    found,
    counts,
    n,
    d_sae,
    k,
    room,
    LAGS: tl.constexpr,
    ROUNDING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], LOWEST, tl.int32)
    for start in range(0, d_sae, BLOCK):
        best = tl.maximum(best, _keys(s, t, start + lane, n, d_sae, bias, taps, sources, gates, gate_rows, LAGS))
    least = kth_largest(best, k)
    trusted = True
    if slack is None:
        # What isn't positive is never chosen.
        least = tl.maximum(least, 1)
    else:
        off = tl.load(slack + t)
        # Not `>`: a NaN must not pass.
        trusted = off < 1e37
        top = value_of(least)
        cut = tl.maximum(top - ROUNDING * tl.abs(top) - off, 0.0) - off
        least = ordered_key(cut - ROUNDING * tl.abs(cut))
    count = tl.zeros((), tl.int32)
    if trusted:
        for start in range(0, d_sae, BLOCK):
            f = start + lane
            reached = _keys(s, t, f, n, d_sae, bias, taps, sources, gates, gate_rows, LAGS) >= least
            place = count + tl.cumsum(reached.to(tl.int32), 0) - 1
            tl.store(found + t * room + place, f, mask=reached & (place < room))
            count += tl.sum(reached.to(tl.int32), 0)
    else:
        count += room + 1
    tl.store(counts + t, count)


@triton.jit
@no_type_check
def _flooded(
    s, bias, taps, sources, gates, gate_rows, found, counts, n, d_sae, k, room, LAGS: tl.constexpr, BLOCK: tl.constexpr
):
    """Where too many entries reach the bound (many are equal, or the largest share a group), bisect the whole row."""
    t = tl.program_id(0).to(tl.int64)
    if tl.load(counts + t) > room:
        lane = tl.arange(0, BLOCK)
        low, high = tl.full((), 1, tl.int32), tl.full((), 2147483647, tl.int32)
        while low < high:
            middle = low + ((high - low) >> 1) + ((high - low) & 1)
            reached = tl.zeros([BLOCK], tl.int32)
            for start in range(0, d_sae, BLOCK):
                reached += (
                    _keys(s, t, start + lane, n, d_sae, bias, taps, sources, gates, gate_rows, LAGS) >= middle
                ).to(tl.int32)
            enough = tl.sum(reached, 0) >= k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
        above = tl.zeros([BLOCK], tl.int32)
        for start in range(0, d_sae, BLOCK):
            above += (_keys(s, t, start + lane, n, d_sae, bias, taps, sources, gates, gate_rows, LAGS) > low).to(
                tl.int32
            )
        spare, count = k - tl.sum(above, 0), tl.zeros((), tl.int32)
        for start in range(0, d_sae, BLOCK):
            f = start + lane
            key = _keys(s, t, f, n, d_sae, bias, taps, sources, gates, gate_rows, LAGS)
            equal = key == low
            kept = (key > low) | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
            place = count + tl.cumsum(kept.to(tl.int32), 0) - 1
            tl.store(found + t * room + place, f, mask=kept)
            count += tl.sum(kept.to(tl.int32), 0)
            spare -= tl.sum((kept & equal).to(tl.int32), 0)
        tl.store(counts + t, count)
