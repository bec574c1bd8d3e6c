"""The largest pre-activations, exactly, from a product in bfloat16: why that is exact is told in `reference`.

TopK of features that may look back along the context and be weighed by their place, and BatchTopK: one threshold for a
whole batch. Nothing of size tokens x features but the product in bfloat16 is made. float32 on the CPU, compiled.

Shapes: N tokens, F d_sae, D d_in, L lags, K k, S slots, R rows, G groups.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import loops
from chronosae.kernels.dispatch import bits, evenly, parallel, recycled
from chronosae.kernels.reference import SAFETY, TINY, Choice, Lookback, PositionWeights, Rounded, summing_error

# Entries of a product that are in memory at once: few enough that a step stays near its weights, many enough for speed.
CHUNK = 3 * 2**22
# Beyond this no bound is sure to be finite.
SANE = 1e15
# Of a threshold's choice: candidates a token may have (more would be too many for sparse codes), groups of a row, and
# entries of the product, which must be in memory at once.
ROOM, GROUPS, LARGEST = 1024, 512, 2**27


def choose_exactly(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    back: Lookback,
    position_weights: PositionWeights | None,
    k: int,
    active: Bool[Tensor, " n"] | None,
) -> Choice:
    """The k largest of each active token: the definition is `reference.choose_dense`."""
    n, lags = len(x), len(back.lags)
    out = Choice(torch.zeros(n, k, dtype=torch.int64), x.new_zeros(n, k), x.new_zeros(n, k, lags))
    groups = group_count(k, len(W))
    weigh = position_weights or PositionWeights(x.new_zeros(0, len(W)), torch.zeros(0, dtype=torch.int64))
    largest = [_by_group(t, groups) for t in (back.taps, weigh.weights)]
    task = _Task(x, W, bias, back, weigh, k, out, torch.zeros(n, dtype=torch.bool), *largest)
    tokens = torch.arange(n) if active is None else active.nonzero().squeeze(1)
    if not len(tokens) or not task.sane():
        task.scan(tokens)
        return out
    inputs, weights = rounded_inputs(x), rounded_weights(W, torch.zeros_like(bias))
    reach = max(back.lags, default=0)
    for part in tokens.split(max(1, CHUNK // len(W))):
        first, last = max(int(part[0]) - reach, 0), int(part[-1]) + 1
        place = torch.arange(n) - first
        task.choose(product_bits(inputs, weights, torch.arange(first, last)), place, part, inputs, weights)
    task.decide_in_full(tokens[task.undecided[tokens]], inputs, weights)
    return out


class _Task(NamedTuple):
    """What every pass over tokens works on."""

    x: Tensor
    W: Tensor
    bias: Tensor
    back: Lookback
    weigh: PositionWeights
    """With no rows if there are none."""
    k: int
    out: Choice
    undecided: Tensor
    largest_taps: Float[Tensor, "l g"]
    largest_weights: Float[Tensor, "p g"]

    def sane(self) -> bool:
        """Every number but x and W, which have bounds of their own, is of ordinary size."""
        known = self.bias.abs(), self.largest_taps, self.largest_weights
        # Not `>`: a NaN must not pass.
        return all(not t.numel() or float(t.max()) < SANE for t in known)

    def choose(self, approx: Tensor, place: Tensor, tokens: Tensor, inputs: Rounded, weights: Rounded) -> None:
        """Decide `tokens` by the bits of an approximate product."""
        found, magnitude = approx.numpy(), np.full(len(approx), -1, np.float32)
        worst = torch.stack([weights.norms.max(), weights.errors.max()]).numpy()
        sides = [tuple(t.numpy() for t in s) for s in ((self.x, *inputs[1:]), (self.W, *weights[1:]))]
        bias = self.bias.numpy(), np.float32(self.bias.abs().max())
        # Tokens of one place after each other, so that its weights stay in cache; lags want the order of the text.
        if len(self.weigh.weights) and not self.back.lags:
            tokens = tokens[self.weigh.rows[tokens].argsort()]
        before = (found, magnitude), place.numpy(), tokens.numpy(), sides[0], (*sides[1], worst), bias, *self._context()
        last = self.k, self.largest_taps.shape[1]
        out = self._out()
        parallel(evenly(len(tokens), 16), lambda a, b: loops.context.choose_in_context(*before, *last, a, b, out))

    def decide_in_full(self, tokens: Tensor, inputs: Rounded, weights: Rounded) -> None:
        """Decide `tokens` by a product in float32, and those that remain by every exact pre-activation."""
        inputs = inputs._replace(errors=summing_error(inputs, self.x.shape[1]))
        # Elsewhere torch may have been told to make float32 products out of bfloat16 ones.
        if torch.get_float32_matmul_precision() == "highest":
            for part in tokens.split(max(1, CHUNK // 2 // len(self.W) // (1 + len(self.back.lags)))):
                needed = torch.cat([part, self.back.sources[:, part].flatten()]).unique()
                needed = needed[needed >= 0]
                place = torch.zeros(len(self.x), dtype=torch.int64)
                place[needed] = torch.arange(len(needed))
                approx = self.x[needed] @ self.W.T
                self.choose(approx.view(torch.int32), place, part, inputs, weights.without_rounding())
            tokens = tokens[self.undecided[tokens]]
        self.scan(tokens)

    def scan(self, tokens: Tensor) -> None:
        """Decide `tokens` by every exact pre-activation."""
        if len(tokens):
            arrays = [t.numpy() for t in (tokens, self.x, self.W, self.bias)]
            before, out = (*arrays, *self._context(), self.k), self._out()
            parallel(evenly(len(tokens)), lambda a, b: loops.context.scan_in_context(*before, a, b, out))

    def _context(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Taps and position weights, each with its largest magnitude in every group."""
        back = self.back.taps, self.back.sources, self.largest_taps
        return tuple(t.numpy() for t in back), tuple(t.numpy() for t in (*self.weigh, self.largest_weights))

    def _out(self) -> tuple[np.ndarray, ...]:
        return (*(t.numpy() for t in self.out), self.undecided.numpy())


def group_count(k: int, d_sae: int) -> int:
    """Groups whose maxima bound the k-th largest, at least k of them.

    All maxima are looked at, and the `d_sae / groups` entries of little more than k groups: least work in all at
    `sqrt(k d_sae)` groups. With few, the largest k share groups and the bound is worse.
    """
    groups = max(128, 4 * k, math.isqrt(k * d_sae))
    return min(d_sae, -(-groups // 64) * 64)


def _by_group(rows: Float[Tensor, "r f"], groups: int) -> Float[Tensor, "r g"]:
    """Largest magnitude among the entries j, j + G, j + 2G ... of each row."""
    found = torch.empty(len(rows), groups, dtype=torch.int32)
    given, out = rows.view(torch.int32).numpy(), found.numpy()
    parallel(evenly(len(rows)), lambda a, b: loops.context.largest_by_group(given[a:b], out[a:b]))
    return found.view(torch.float32)


def choose_above(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    active: Bool[Tensor, " n"] | None,
    *,
    count: int | None = None,
    threshold: float = 0.0,
) -> tuple[Choice, Float[Tensor, ""]] | None:
    """All positive entries that reach `threshold`, or with `count` the count-th largest positive one of all; and it.

    In as many slots as the fullest token needs. If fewer than `count` are positive, the smallest positive one is the
    threshold, and Inf if none is. None is returned where the bound doesn't decide, or a token would need too many
    slots: then every entry must be computed.
    """
    rows = torch.arange(len(x)) if active is None else active.nonzero().squeeze(1)
    if not len(rows) or len(rows) * len(W) > LARGEST:
        return None
    inputs, weights = rounded_inputs(x), rounded_weights(W, bias)
    worst = torch.stack([weights.norms.max(), weights.errors.max()])
    # Not `>`: a NaN must not pass.
    if not float((inputs.norms * worst.max()).max()) < 1e37:
        return None
    approx, n = product_bits(inputs, weights, rows).numpy(), len(rows)
    maxima = recycled((n, min(GROUPS, len(W))), torch.int16)
    bounds = recycled(tuple(maxima.shape), torch.float32)
    places, known = rows.numpy(), [t.numpy() for t in (inputs.norms, inputs.errors)]
    out = maxima.numpy(), bounds.numpy()
    parallel(evenly(n, 16), lambda a, b: loops.select.lower_bounds(approx, places, *known, worst.numpy(), a, b, *out))
    least = max(threshold, 0.0) if count is None else _at_least(out[1], count)
    room = min(ROOM, len(W))
    found, exact = recycled((n, room), torch.int32), recycled((n, room), torch.float32)
    lists = found.numpy(), exact.numpy(), np.empty(n, np.int64)
    given = approx, places, x.numpy(), *known, W.numpy(), worst.numpy(), bias.numpy(), np.float32(least), out[0]
    parallel(evenly(n, 16), lambda a, b: loops.select.collect(*given, a, b, *lists))
    if (lists[2] < 0).any():
        return None
    reached = np.float32(threshold) if count is None else _count_th(lists[1], lists[2], count)
    return _in_slots(places, lists, reached, len(x)), torch.tensor(float(reached))


def _at_least(bounds: np.ndarray, count: int) -> float:
    """A lower bound of the count-th largest entry; what isn't positive is never chosen."""
    if bounds.size < count:
        return 0.0
    return max(float(np.partition(bounds, bounds.size - count, axis=None)[bounds.size - count]), 0.0)


def _count_th(exact: np.ndarray, counts: np.ndarray, count: int) -> np.float32:
    entries = exact[np.arange(exact.shape[1]) < counts[:, None]]
    positive = entries[entries > 0]
    if not len(positive):
        return np.float32(np.inf)
    place = max(len(positive) - count, 0)
    return np.partition(positive, place)[place]


def _in_slots(rows: np.ndarray, lists: tuple, threshold: np.float32, tokens: int) -> Choice:
    found, exact, counts = lists
    kept = np.empty(len(rows), np.int64)
    loops.select.kept_counts(exact, counts, threshold, kept)
    slots = max(int(kept.max()), 1)
    indices, values = torch.zeros(tokens, slots, dtype=torch.int64), torch.zeros(tokens, slots)
    loops.select.write_kept(rows, found, exact, counts, kept, threshold, indices.numpy(), values.numpy())
    return Choice(indices, values, values.new_zeros(tokens, slots, 0))


def product_bits(inputs: Rounded, weights: Rounded, rows: Int[Tensor, " r"]) -> Int[Tensor, "r f"]:
    """Approximate pre-activations of some tokens, as the bits of bfloat16."""
    approx = recycled((len(rows), len(weights.rows)), torch.bfloat16)
    torch.mm(inputs.rows if len(rows) == len(inputs.rows) else inputs.rows[rows], weights.rows.T, out=approx)
    return approx.view(torch.int16)


def rounded_inputs(x: Float[Tensor, "n d"]) -> Rounded:
    """Tokens, with two columns of ones: what the bias is multiplied by."""
    rows, norms, errors = _round(x, torch.ones(len(x), 2, dtype=torch.bfloat16))
    rounded = Rounded(rows, torch.hypot(norms + errors, torch.ones(())) * SAFETY, errors * SAFETY)
    return rounded._replace(errors=rounded.errors + summing_error(rounded, x.shape[1]))


def rounded_weights(W: Float[Tensor, "f d"], bias: Float[Tensor, " f"]) -> Rounded:
    """Weights, with the bias in two columns, the second for what the first loses; what both lose counts as lost."""
    high = bias.bfloat16()
    low = (bias - high.float()).bfloat16()
    rows, norms, errors = _round(W, torch.stack([high, low], 1))
    lost = bias - high.float() - low.float()
    return Rounded(rows, torch.hypot(norms, bias) * SAFETY, torch.hypot(errors, lost) * SAFETY + TINY)


def _round(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 copies with `columns` beside them, norms of the rows, and of what the copies lack."""
    n, d = rows.shape
    copy = recycled((n, d + columns.shape[1]), torch.bfloat16)
    norms, errors = torch.empty(n), torch.empty(n)
    given, out = (rows.numpy(), bits(copy), bits(columns)), (norms.numpy(), errors.numpy())
    parallel(evenly(n, 256), lambda a, b: loops.bits.round_rows(*given, a, b, *out))
    return copy, norms, errors
