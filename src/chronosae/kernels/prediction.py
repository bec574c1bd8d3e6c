"""What fired before tokens, and the log-odds that features fire, given that: low rank plus candidates (DESIGN 5.C).

Compiled. What needs no graph is done by one thread: small tensors gain nothing from more.

Shapes: n tokens, q targets of each, w lags, k slots, F features, r rank, m candidate entries of a target, p triples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import loops
from chronosae.kernels.dispatch import compiled_kernels, evenly, parallel, recycled
from chronosae.kernels.slots import by_feature, combine, weighted_rows


def most_active(values: Float[Tensor, "*tokens k"]) -> int:
    """The largest number of values that aren't zero at a token; 0 without any."""
    if not values.numel():
        return 0
    if not compiled_kernels(values):
        return int((values != 0).sum(-1).max())
    return int(loops.prediction.most_active(values.detach().reshape(-1, values.shape[-1]).numpy()))


def same_document(
    mask: Bool[Tensor, "batch pos"], doc_ids: Int[Tensor, "batch pos"] | None, window: int
) -> Bool[Tensor, "batch pos window"]:
    """`[..., l - 1]`: the position l earlier and this one are both unmasked and in one document of one sequence.

    A document starts wherever `doc_ids` change, so an id that comes back later is another document.
    """
    if mask.device.type == "cpu" and compiled_kernels(torch.empty(0)):
        valid = torch.empty(*mask.shape, window, dtype=torch.bool)
        ids = mask.new_empty(len(mask), 0, dtype=torch.int64) if doc_ids is None else doc_ids
        loops.prediction.same_document(mask.contiguous().numpy(), ids.contiguous().numpy(), valid.numpy())
        return valid
    run = torch.zeros_like(mask, dtype=torch.int64)
    if doc_ids is not None:
        run[:, 1:] = (doc_ids[:, 1:] != doc_ids[:, :-1]).cumsum(1)
    valid = torch.zeros(*mask.shape, window, dtype=torch.bool, device=mask.device)
    for lag in range(1, min(window, mask.shape[1] - 1) + 1):
        valid[:, lag:, lag - 1] = mask[:, lag:] & mask[:, :-lag] & (run[:, lag:] == run[:, :-lag])
    return valid


def gather_history(
    indices: Int[Tensor, "batch pos k"],
    values: Float[Tensor, "batch pos k"],
    valid: Bool[Tensor, "batch pos w"],
    tokens: Int[Tensor, "n 2"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features and values at `tokens` (row, position) [n, k] and before them [n, w, k], and which of these are valid.

    `valid[..., l - 1]` says whether the position l earlier counts; values are 0 where it doesn't.
    """
    if values.requires_grad or not compiled_kernels(values):
        row, position = tokens.unbind(1)
        before = (position[:, None] - torch.arange(1, valid.shape[-1] + 1, device=tokens.device)).clamp(min=0)
        row_before, present = row[:, None], valid[row, position]
        past = torch.where(present[..., None], values[row_before, before], 0)
        return indices[row, position], values[row, position], indices[row_before, before], past, present
    shape = len(tokens), valid.shape[-1], values.shape[-1]
    now, past = (shape[0], shape[2]), shape
    pairs = [(indices.new_empty(s), values.new_empty(s)) for s in (now, past)]
    out = *pairs[0], *pairs[1], valid.new_empty(shape[:2])
    given = [t.detach().contiguous().numpy() for t in (indices, values, valid, tokens)]
    loops.prediction.gather_history(*given, tuple(t.numpy() for t in out))
    return out


def unit_values(
    features: Int[Tensor, "*p"], values: Float[Tensor, "*p"], mean_square: Float[Tensor, " F"]
) -> Float[Tensor, "*p"]:
    """Values over the root mean square of their feature, 0 where that is 0. The gradient takes it for a constant."""
    values = values.to(mean_square.dtype)
    if values.requires_grad or not compiled_kernels(values, mean_square):
        square = mean_square[features]
        return values * torch.where(square > 0, square.clamp(min=torch.finfo(square.dtype).tiny).rsqrt(), 0)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    given = [t.contiguous().view(-1).numpy() for t in (features, values, mean_square)]
    loops.prediction.unit_values(*given, out.view(-1).numpy())
    return out


def triple_weights(
    triples: tuple[Int[Tensor, " p"], Int[Tensor, " p"], Int[Tensor, " p"]],
    low_rank: tuple[Float[Tensor, "F w r"], Float[Tensor, "F w r"]],
    values: Float[Tensor, "F m"],
    candidates: tuple[Int[Tensor, "F m"], Int[Tensor, "F m"]],
) -> Float[Tensor, " p"]:
    """`U_il . V_jl` and the value of the candidate (i, j, l), if it is one, of triples (source j, target i, lag l).

    candidates: source and lag of each target's entries.
    """
    (source, target, lag), (U, V), (sources, lags) = triples, low_rank, candidates
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in (U, V, values))
    if graph or not compiled_kernels(U, V, values):
        own = (sources[target] == source.unsqueeze(1)) & (lags[target] == lag.unsqueeze(1))
        return (U[target, lag - 1] * V[source, lag - 1]).sum(1) + (values[target] * own).sum(1)
    out = values.new_empty(len(source))
    given = [t.detach().contiguous().numpy() for t in (source, target, lag, U, V, values, sources, lags)]
    loops.prediction.triple_weights(*given, out.numpy())
    return out


def absent(
    features: Int[Tensor, "n k"], values: Float[Tensor, "n k"], drawn: Int[Tensor, "n d"], d_sae: int
) -> Bool[Tensor, "n d"]:
    """Whether each feature drawn for a token isn't active (value 0) there."""
    if not compiled_kernels(values):
        return ((drawn.unsqueeze(2) != features.unsqueeze(1)) | (values == 0).unsqueeze(1)).all(2)
    out = torch.empty(drawn.shape, dtype=torch.bool)
    given = [t.detach().contiguous().numpy() for t in (features, values, drawn)]
    loops.prediction.absent(*given, d_sae, out.numpy())
    return out


def firing_energy(
    indices: Int[Tensor, "n k"], values: Float[Tensor, "n k"], mask: Bool[Tensor, " n"], d_sae: int
) -> tuple[Int[Tensor, " F"], Float[Tensor, " F"]]:
    """How often each feature is active at unmasked tokens, and the sum of the squares of its values there (float64)."""
    if not compiled_kernels(values):
        used = (values != 0) & mask.unsqueeze(1)
        features, squares = indices[used], values[used].double().square()
        return torch.bincount(features, minlength=d_sae), squares.new_zeros(d_sae).index_add_(0, features, squares)
    count, energy = torch.empty(d_sae, dtype=torch.int64), torch.empty(d_sae, dtype=torch.float64)
    given = [t.detach().contiguous().numpy() for t in (indices, values, mask)]
    loops.prediction.firing_energy(*given, count.numpy(), energy.numpy())
    return count, energy


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
    if y.requires_grad or not compiled_kernels(y, *predictor[:4]):
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
        grad = grad.contiguous()
        grad_U, grad_b = weighted_rows(by_feature(targets, grad, len(U)), grad, context)
        slopes = combine(targets, grad, U.detach().flatten(1)).numpy()
        grad_V, grad_values = recycled(tuple(grad_U.shape), U.dtype), recycled(ctx.entries, U.dtype)
        grad_V.numpy().fill(0)
        w, before, flat = past.shape[1], (past.numpy(), y.numpy(), slopes), grad.view(-1).numpy()

        def add(first: int, last: int) -> None:
            if first < w:
                loops.prediction.past_gradients(*before, first, last, grad_V.numpy())
            else:
                loops.prediction.hit_gradients(*ctx.hits, flat, grad_values.view(-1).numpy())

        parallel(list(range(w + 2)), add)
        return None, None, None, grad_b, grad_U.view_as(U), grad_V.view_as(U), grad_values, None


def _look_back(
    targets: Tensor, past: Tensor, y: Tensor, predictor: Predictor
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Log-odds, sums of y V, and the candidates that fired: their entries and places, and y."""
    b, U, V, values, keys = (t.detach().contiguous() for t in predictor)
    n = len(targets)
    context, logits = y.new_empty(n, U[0].numel()), y.new_empty(targets.shape)
    given = [t.numpy() for t in (targets, past, y, b, U.flatten(1), V.flatten(1), values, keys)]
    made = context.numpy(), logits.numpy()
    bounds, found = evenly(n, 16), {}

    def look(first: int, last: int) -> None:
        found[first] = _with_room(
            lambda *out: loops.prediction.lagged_logits(*given, first, last, *made, *out),
            (last - first) * targets.shape[1],
            y,
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
