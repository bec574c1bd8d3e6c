"""Exact TopK of pre-activations that look back along the context, or are weighed by their place.

What is exact, and why, is told in `low_precision`: `s = x W^T` is bounded there, and the bound goes through the sum
over lags with the taps' magnitudes. Nothing of size tokens x features but the product in bfloat16 is made.

Shapes: N tokens, F d_sae, D d_in, L lags, K k.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.compiled import evenly, parallel
from chronosae.kernels.context import Gate, Lookback, compared, look_back
from chronosae.kernels.low_precision import CHUNK, product_bits
from chronosae.kernels.rounded import TINY, Rounded, rounded_inputs, rounded_weights, summing_error
from chronosae.kernels.select import group_count, largest_positive

# Beyond this no bound is sure to be finite.
SANE = 1e15


class Choice(NamedTuple):
    """The chosen features of each token, indices ascending after unused slots (0, 0)."""

    indices: Int[Tensor, "n k"]
    values: Float[Tensor, "n k"]
    """Pre-activations, not weighed."""
    lagged: Float[Tensor, "n k l"]
    """What x W^T is at the earlier tokens, for the same features; zero where there is none."""


def choose_dense(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    back: Lookback,
    gate: Gate | None,
    k: int,
    active: Bool[Tensor, " n"] | None,
) -> Choice:
    """By computing every pre-activation."""
    s = x @ W.T
    pre = look_back(s, back) + bias
    best, indices = largest_positive(compared(pre, gate), k)
    used = best != 0
    if active is not None:
        used &= active.unsqueeze(1)
    indices = torch.where(used, indices, 0)
    values = torch.where(used, pre.gather(1, indices), 0)
    there = used & (back.sources >= 0).unsqueeze(2)
    lagged = torch.where(there, s[back.sources.clamp_min(0).unsqueeze(2), indices], 0)
    return Choice(indices, values, lagged.permute(1, 2, 0).contiguous())


def choose_exactly(
    loops: SimpleNamespace,
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    back: Lookback,
    gate: Gate | None,
    k: int,
    active: Bool[Tensor, " n"] | None,
) -> Choice:
    """From a product in bfloat16; float32 on the CPU."""
    n, lags = len(x), len(back.lags)
    out = Choice(torch.zeros(n, k, dtype=torch.int64), x.new_zeros(n, k), x.new_zeros(n, k, lags))
    groups = group_count(k, len(W))
    nowhere = Gate(x.new_zeros(0, len(W)), torch.zeros(0, dtype=torch.int64))
    largest = [_by_group(loops, t, groups) for t in (back.taps, (gate or nowhere).weights)]
    task = _Task(loops, x, W, bias, back, gate or nowhere, k, out, torch.zeros(n, dtype=torch.bool), *largest)
    tokens = torch.arange(n) if active is None else active.nonzero().squeeze(1)
    if not len(tokens) or not task.sane():
        task.scan(tokens)
        return out
    inputs, weights = rounded_inputs(loops, x), rounded_weights(loops, W, torch.zeros_like(bias))
    reach = max(back.lags, default=0)
    for part in tokens.split(max(1, CHUNK // len(W))):
        first, last = max(int(part[0]) - reach, 0), int(part[-1]) + 1
        place = torch.arange(n) - first
        task.choose(product_bits(inputs, weights, torch.arange(first, last)), place, part, inputs, weights)
    task.decide_in_full(tokens[task.undecided[tokens]], inputs, weights)
    return out


class _Task(NamedTuple):
    """What every pass over tokens works on."""

    loops: SimpleNamespace
    x: Tensor
    W: Tensor
    bias: Tensor
    back: Lookback
    gate: Gate
    """With no rows if there is none."""
    k: int
    out: Choice
    undecided: Tensor
    largest_taps: Float[Tensor, "l g"]
    largest_gates: Float[Tensor, "p g"]

    def sane(self) -> bool:
        """Every number but x and W, which have bounds of their own, is of ordinary size."""
        known = self.bias.abs(), self.largest_taps, self.largest_gates
        # Not `>`: a NaN must not pass.
        return all(not t.numel() or float(t.max()) < SANE for t in known)

    def choose(self, approx: Tensor, place: Tensor, tokens: Tensor, inputs: Rounded, weights: Rounded) -> None:
        """Decide `tokens` by the bits of an approximate product."""
        bits, magnitude = approx.numpy(), np.full(len(approx), -1, np.float32)
        worst = torch.stack([weights.norms.max(), weights.errors.max()]).numpy()
        sides = [tuple(t.numpy() for t in s) for s in ((self.x, *inputs[1:]), (self.W, *weights[1:]))]
        bias = self.bias.numpy(), np.float32(self.bias.abs().max())
        # Tokens of one gate row after each other, so that it stays in cache; lags want the order of the text.
        if len(self.gate.weights) and not self.back.lags:
            tokens = tokens[self.gate.rows[tokens].argsort()]
        before = (bits, magnitude), place.numpy(), tokens.numpy(), sides[0], (*sides[1], worst), bias, *self._context()
        out, groups = self._out(), self.largest_taps.shape[1]
        parallel(evenly(len(tokens), 16), lambda a, b: self.loops.choose_in_context(*before, self.k, groups, a, b, out))

    def decide_in_full(self, tokens: Tensor, inputs: Rounded, weights: Rounded) -> None:
        """Decide `tokens` by a product in float32, and those that remain by every exact pre-activation."""
        inputs = inputs._replace(errors=summing_error(inputs, self.x.shape[1]))
        weights = weights._replace(errors=torch.full_like(weights.errors, TINY))
        if torch.get_float32_matmul_precision() == "highest":
            for part in tokens.split(max(1, CHUNK // 2 // len(self.W) // (1 + len(self.back.lags)))):
                needed = torch.cat([part, self.back.sources[:, part].flatten()]).unique()
                needed = needed[needed >= 0]
                place = torch.zeros(len(self.x), dtype=torch.int64)
                place[needed] = torch.arange(len(needed))
                approx = self.x[needed] @ self.W.T
                self.choose(approx.view(torch.int32), place, part, inputs, weights)
            tokens = tokens[self.undecided[tokens]]
        self.scan(tokens)

    def scan(self, tokens: Tensor) -> None:
        """Decide `tokens` by every exact pre-activation."""
        if len(tokens):
            arrays = [t.numpy() for t in (tokens, self.x, self.W, self.bias)]
            before, out = (*arrays, *self._context(), self.k), self._out()
            parallel(evenly(len(tokens)), lambda a, b: self.loops.scan_in_context(*before, a, b, out))

    def _context(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Taps and gates, each with its largest magnitude in every group."""
        back = self.back.taps, self.back.sources, self.largest_taps
        return tuple(t.numpy() for t in back), tuple(t.numpy() for t in (*self.gate, self.largest_gates))

    def _out(self) -> tuple[np.ndarray, ...]:
        return (*(t.numpy() for t in self.out), self.undecided.numpy())


def _by_group(loops: SimpleNamespace, rows: Float[Tensor, "r f"], groups: int) -> Float[Tensor, "r g"]:
    """Largest magnitude among the entries j, j + G, j + 2G ... of each row."""
    found = torch.empty(len(rows), groups, dtype=torch.int32)
    parts = evenly(len(rows))
    parallel(parts, lambda a, b: loops.largest_by_group(rows[a:b].view(torch.int32).numpy(), found[a:b].numpy()))
    return found.view(torch.float32)
