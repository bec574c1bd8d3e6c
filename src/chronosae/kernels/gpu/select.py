"""All entries of a row that may be among its k largest, in the order of their indices: two passes, no sorting.

The first pass finds the maxima of G interleaved groups. The k-th largest of these is reached by at least k entries: a
lower bound on the row's k-th largest. The second lists the few entries that reach it.

Where entries are known only to within `slack` of exact ones, both ends are widened by it (see `kernels.reference`).

An entry is made as it is read: bias, what earlier tokens add, and the weight it is compared with. What isn't there
costs nothing: a kernel is compiled without the arguments that are None.

Shapes: N tokens, F d_sae, K k, R room, L lags, P rows of position weights.
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
from jaxtyping import Bool, Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.base import LOWEST, kth_largest, launch, ordered_key, power_of_two, value_of
from chronosae.kernels.reference import largest_positive_dense

# A larger k is a good part of any row: torch's choice is as fast.
MOST = 4096


class Extras(NamedTuple):
    """What comes on top of the rows `s` of a product: `pre_tf = s_tf + sum_l taps_lf s_(sources_lt)f + bias_f`.

    With scales, entries are compared by `max(pre_tf, 0) scales_(scale_rows_t)f`.
    """

    bias: Float[Tensor, " f"] | None = None
    taps: Float[Tensor, "l f"] | None = None
    sources: Int[Tensor, "l n"] | None = None
    """-1 where there is no earlier token."""
    scales: Float[Tensor, "p f"] | None = None
    scale_rows: Int[Tensor, " n"] | None = None

    @property
    def constants(self) -> dict[str, Any]:
        """What kernels are compiled for."""
        return {"LAGS": 0 if self.taps is None else len(self.taps)}


NOTHING = Extras()


def largest_positive(
    pre: Float[Tensor, "n f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    bias: Float[Tensor, " f"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """As `kernels.largest_positive`: of `pre + bias`, for active tokens. Values are float32 where bias is given.

    torch chooses in float64 and for a k above `MOST`; which of equal entries is then its choice.
    """
    pre = pre.detach()
    if pre.dtype == torch.float64 or k > MOST:
        values, indices = largest_positive_dense(pre if bias is None else pre + bias, k)
        if active is not None:
            values, indices = torch.where(active.unsqueeze(1), values, 0), indices * active.unsqueeze(1)
        return values, indices
    pre = pre.contiguous()
    extras = Extras(bias)
    values, indices = keep_largest_of(candidates(pre, k, extras), pre, k, active, extras)
    return values if bias is not None else values.to(pre.dtype), indices


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

    Args:
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


def keep_largest(
    found: Candidates, values: Float[Tensor, "n r"], k: int, active: Bool[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values (float32) and indices of the k largest positive candidates; indices ascending, unused slots (0, 0).

    Args:
        values: one for each candidate.
        active: tokens that get any; all by default.
    """
    return _keep_k(found, values, k, active, NOTHING, False)


def keep_largest_of(
    found: Candidates,
    s: Float[Tensor, "n f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    extras: Extras = NOTHING,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The same of entries that are read again: of `s` with its extras. Values are without the scales' weights."""
    return _keep_k(found, s, k, active, extras, True)


def _keep_k(
    found: Candidates, values: Tensor, k: int, active: Tensor | None, extras: Extras, by_feature: bool
) -> tuple[Tensor, Tensor]:
    n, room = found.indices.shape
    indices = torch.empty(n, k, dtype=torch.int64, device=values.device)
    kept = torch.empty(n, k, dtype=torch.float32, device=values.device)
    arguments = values, *extras, found.indices, found.counts, active, indices, kept, n, values.shape[1], k, room
    block = power_of_two(room)
    constants = {"BY_FEATURE": by_feature, "BLOCK": block, **extras.constants}
    launch(_keep, (n,), *arguments, num_warps=4 if block <= 1024 else 8, **constants)
    return kept, indices


@triton.jit
@no_type_check
def entries(s, t, f, inside, n, d_sae, bias, taps, sources, LAGS: tl.constexpr):
    """Pre-activations of token t at features f, in float32; -Inf outside."""
    values = tl.load(s + t * d_sae + f, mask=inside, other=-float("inf")).to(tl.float32)
    for lag in tl.static_range(LAGS):
        source = tl.load(sources + lag * n + t).to(tl.int64)
        there = tl.load(s + source * d_sae + f, mask=inside & (source >= 0), other=0).to(tl.float32)
        values += tl.load(taps + lag * d_sae + f, mask=inside, other=0).to(tl.float32) * there
    if bias is not None:
        values += tl.load(bias + f, mask=inside, other=0).to(tl.float32)
    return values


@triton.jit
@no_type_check
def keys(values, t, f, inside, d_sae, scales, scale_rows):
    """Ordered keys of what pre-activations are compared by."""
    if scales is not None:
        weight = tl.load(scales + tl.load(scale_rows + t).to(tl.int64) * d_sae + f, mask=inside, other=0).to(tl.float32)
        # Not `maximum`, which a NaN might not get through.
        values = tl.where(values < 0, 0.0, values) * weight
    return tl.where(inside, ordered_key(values), LOWEST)


@triton.jit
@no_type_check
def _keys(s, t, f, n, d_sae, bias, taps, sources, scales, scale_rows, LAGS: tl.constexpr):
    inside = f < d_sae
    values = entries(s, t, f, inside, n, d_sae, bias, taps, sources, LAGS)
    return keys(values, t, f, inside, d_sae, scales, scale_rows)


@triton.jit
@no_type_check
def _candidates(
    s,
    bias,
    taps,
    sources,
    scales,
    scale_rows,
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
        best = tl.maximum(best, _keys(s, t, start + lane, n, d_sae, bias, taps, sources, scales, scale_rows, LAGS))
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
            reached = _keys(s, t, f, n, d_sae, bias, taps, sources, scales, scale_rows, LAGS) >= least
            place = count + tl.cumsum(reached.to(tl.int32), 0) - 1
            tl.store(found + t * room + place, f, mask=reached & (place < room))
            count += tl.sum(reached.to(tl.int32), 0)
    else:
        count += room + 1
    tl.store(counts + t, count)


@triton.jit
@no_type_check
def _flooded(
    s,
    bias,
    taps,
    sources,
    scales,
    scale_rows,
    found,
    counts,
    n,
    d_sae,
    k,
    room,
    LAGS: tl.constexpr,
    BLOCK: tl.constexpr,
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
                    _keys(s, t, start + lane, n, d_sae, bias, taps, sources, scales, scale_rows, LAGS) >= middle
                ).to(tl.int32)
            enough = tl.sum(reached, 0) >= k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
        above = tl.zeros([BLOCK], tl.int32)
        for start in range(0, d_sae, BLOCK):
            above += (_keys(s, t, start + lane, n, d_sae, bias, taps, sources, scales, scale_rows, LAGS) > low).to(
                tl.int32
            )
        spare, count = k - tl.sum(above, 0), tl.zeros((), tl.int32)
        for start in range(0, d_sae, BLOCK):
            f = start + lane
            key = _keys(s, t, f, n, d_sae, bias, taps, sources, scales, scale_rows, LAGS)
            equal = key == low
            kept = (key > low) | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
            place = count + tl.cumsum(kept.to(tl.int32), 0) - 1
            tl.store(found + t * room + place, f, mask=kept)
            count += tl.sum(kept.to(tl.int32), 0)
            spare -= tl.sum((kept & equal).to(tl.int32), 0)
        tl.store(counts + t, count)


@triton.jit
@no_type_check
def _keep(
    values,
    bias,
    taps,
    sources,
    scales,
    scale_rows,
    found,
    counts,
    active,
    indices,
    kept,
    n,
    width,
    k,
    room,
    LAGS: tl.constexpr,
    BY_FEATURE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    used = lane < tl.load(counts + t)
    if active is not None:
        used = used & (tl.load(active + t) != 0)
    feature = tl.load(found + t * room + lane, mask=used, other=0)
    if BY_FEATURE:
        value = entries(values, t, feature, used, n, width, bias, taps, sources, LAGS)
        key = keys(value, t, feature, used, width, scales, scale_rows)
    else:
        value = tl.load(values + t * width + lane, mask=used, other=0)
        key = tl.where(used, ordered_key(value), LOWEST)
    threshold = tl.maximum(kth_largest(key, k), 1)
    above, equal = key > threshold, key == threshold
    spare = k - tl.sum(above.to(tl.int32), 0)
    chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
    unused = k - tl.sum(chosen.to(tl.int32), 0)
    slot = t * k + unused + tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(indices + slot, feature.to(tl.int64), mask=chosen)
    tl.store(kept + slot, value, mask=chosen)
    tl.store(indices + t * k + lane, tl.zeros([BLOCK], tl.int64), mask=lane < unused)
    tl.store(kept + t * k + lane, tl.zeros([BLOCK], tl.float32), mask=lane < unused)
