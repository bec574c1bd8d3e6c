"""Log-odds that features fire, given what fired before: low rank plus candidates (DESIGN 5.C), compiled.

Shapes: n tokens, q targets of each, w lags, k slots, F features, r rank, m candidate entries of a target.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel, sure_loops
from chronosae.kernels.memory import recycled
from chronosae.kernels.slots import by_feature, combine, weighted_rows


class Predictor(NamedTuple):
    """b, low rank U . V a lag, and a value of its own for each of a target's candidates."""

    b: Float[Tensor, " F"]
    U: Float[Tensor, "F w r"]
    V: Float[Tensor, "F w r"]
    values: Float[Tensor, "F m"]
    keys: Int[Tensor, "F m"]
    """`EntryKeys` of the candidates."""


class EntryKeys:
    """(lag - 1) F + source of every entry in 32 bits, -1 where the source is: what is looked up for every target.

    Kept for as long as the tensors they come from are the same and nobody has written to them.
    """

    def __init__(self) -> None:
        self._source, self._lag, self._versions, self._keys = torch.empty(0), torch.empty(0), (-1, -1), torch.empty(0)

    def of(self, source: Int[Tensor, "F m"], lag: Int[Tensor, "F m"]) -> Int[Tensor, "F m"]:
        """Those of these candidates."""
        versions = source._version, lag._version
        if source is not self._source or lag is not self._lag or versions != self._versions:
            self._source, self._lag, self._versions = source, lag, versions
            self._keys = torch.where(source < 0, -1, (lag - 1) * len(source) + source).to(torch.int32)
        return self._keys


def lagged_logits(
    targets: Int[Tensor, "n q"], past: Int[Tensor, "n w k"], y: Float[Tensor, "n w k"], predictor: Predictor
) -> Float[Tensor, "n q"] | None:
    """`b_i + sum_l sum_j (U_il . V_jl + value of (i, j, l)) y_lj` of target features i, past features j.

    A feature comes at most once at a token and lag; `y` 0 is an unused slot. Gradients to b, U, V and values, none to
    `y`. None: there is no compiler for this.
    """
    if y.requires_grad or loops_for(y, *predictor[:4]) is None:
        return None
    return _Logits.apply(targets.contiguous(), past.contiguous(), y.contiguous(), *predictor)  # pyright: ignore[reportReturnType]


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, past: Tensor, y: Tensor, *predictor: Tensor) -> Tensor:
        logits, context, hits, strengths = _look_back(targets, past, y, Predictor(*predictor))
        ctx.save_for_backward(targets, past, y, context, predictor[1])
        ctx.hits, ctx.entries = (hits, strengths), predictor[3].shape
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        targets, past, y, context, U = ctx.saved_tensors
        loops, grad = sure_loops(grad), grad.contiguous()
        grad_U, grad_b = weighted_rows(by_feature(targets, grad, len(U)), grad, context)
        slopes = combine(targets, grad, U.detach().flatten(1)).numpy()
        grad_V, grad_values = recycled(tuple(grad_U.shape), U.dtype), recycled(ctx.entries, U.dtype)
        grad_V.numpy().fill(0)
        w, before, flat = past.shape[1], (past.numpy(), y.numpy(), slopes), grad.view(-1).numpy()

        def add(first: int, last: int) -> None:
            if first < w:
                loops.past_gradients(*before, first, last, grad_V.numpy())
            else:
                loops.hit_gradients(*ctx.hits, flat, grad_values.view(-1).numpy())

        parallel(list(range(w + 2)), add)
        return None, None, None, grad_b, grad_U.view_as(U), grad_V.view_as(U), grad_values, None


def _look_back(
    targets: Tensor, past: Tensor, y: Tensor, predictor: Predictor
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Log-odds, sums of y V, and the candidates that fired: their entries and places, and y."""
    loops, n = sure_loops(y), len(targets)
    b, U, V, values, keys = (t.detach().contiguous() for t in predictor)
    context, logits = y.new_empty(n, U[0].numel()), y.new_empty(targets.shape)
    given = [t.numpy() for t in (targets, past, y, b, U.flatten(1), V.flatten(1), values, keys)]
    made = context.numpy(), logits.numpy()
    bounds, found = evenly(n, 16), {}

    def look(first: int, last: int) -> None:
        found[first] = _with_room(
            lambda *out: loops.lagged_logits(*given, first, last, *made, *out), (last - first) * targets.shape[1], y
        )

    parallel(bounds, look)
    hits, strengths = zip(*(found[first] for first in bounds[:-1]), strict=True)
    return logits, context, np.concatenate(hits, 1), np.concatenate(strengths)


def _with_room(work: Callable[[np.ndarray, np.ndarray], int], room: int, like: Tensor) -> tuple[np.ndarray, np.ndarray]:
    while True:
        hits, strengths = np.empty((2, room), np.int64), like.new_empty(room).numpy()
        number = work(hits, strengths)
        if number <= room:
            return hits[:, :number], strengths[:number]
        room = number


def absent(
    features: Int[Tensor, "n k"], values: Float[Tensor, "n k"], drawn: Int[Tensor, "n d"], d_sae: int
) -> Bool[Tensor, "n d"]:
    """Whether each feature drawn for a token isn't active (value 0) there."""
    loops = loops_for(values)
    if loops is None:
        return ((drawn.unsqueeze(2) != features.unsqueeze(1)) | (values == 0).unsqueeze(1)).all(2)
    out = torch.empty(drawn.shape, dtype=torch.bool)
    given = [t.detach().contiguous().numpy() for t in (features, values, drawn)]
    loops.absent(*given, d_sae, out.numpy())
    return out


def firing_energy(
    indices: Int[Tensor, "n k"], values: Float[Tensor, "n k"], mask: Bool[Tensor, " n"], d_sae: int
) -> tuple[Int[Tensor, " F"], Float[Tensor, " F"]]:
    """How often each feature is active at unmasked tokens, and the sum of the squares of its values there (float64)."""
    loops = loops_for(values)
    if loops is None:
        used = (values != 0) & mask.unsqueeze(1)
        features, squares = indices[used], values[used].double().square()
        return torch.bincount(features, minlength=d_sae), squares.new_zeros(d_sae).index_add_(0, features, squares)
    count, energy = torch.empty(d_sae, dtype=torch.int64), torch.empty(d_sae, dtype=torch.float64)
    given = [t.detach().contiguous().numpy() for t in (indices, values, mask)]
    loops.firing_energy(*given, count.numpy(), energy.numpy())
    return count, energy
