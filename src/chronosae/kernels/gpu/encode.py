"""TopK and BatchTopK of a linear encoder on a GPU: one product forward, work proportional to active features backward.

Features may look back along the context and be weighed by their place. The sum over lags, the bias and the weight are
made as the choice reads the product's entries. Where a chosen entry looked back at an earlier token, that token's row
gets a share of its gradient: one slot and lag count as one more slot. BatchTopK has one threshold for a whole batch,
applied to each token's largest entries.

Shapes: N tokens, F d_sae, D d_in, K k, M further features, L lags, S slots, T entries taken of each token.
"""

from typing import Any, no_type_check

import torch
import triton
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

from chronosae.kernels.gpu.base import launch, low_dtype, lowered, power_of_two, without_autocast
from chronosae.kernels.gpu.exact import CHUNK, topk_of_product
from chronosae.kernels.gpu.select import MOST, Extras, candidates, keep_largest_of, largest_positive
from chronosae.kernels.gpu.slots import by_feature, combine, weighted_rows
from chronosae.kernels.reference import (
    LEAST_TOKENS,
    Choice,
    Chosen,
    Lookback,
    PositionWeights,
    choose_dense,
    no_lookback,
)

# Entries taken of a token at least, and of how many times the mean.
LEAST, TIMES = 64, 8
# Where no mean is known.
ROOM = 512


def encode_topk_in_context(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    back: Lookback,
    position_weights: PositionWeights | None = None,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> Chosen:
    """As `kernels.encode_topk_in_context`.

    float32 is exact where features see their own token alone. Under autocast, or in half-wide types, the product is
    made in that type and the choice is among its rounded entries plus the rest in full, which are also the values: what
    the dense reference does there.
    """
    low, W, seen = low_dtype(x), W.contiguous(), back.of_active(active)
    h = (x if centre is None else x.detach()).contiguous()
    before = h.detach(), W.detach(), bias.detach()
    with without_autocast(x.device):
        if back.lags or position_weights is not None:
            weigh = None if position_weights is None else position_weights.detached()
            choice = _choose_in_context(*before, seen, weigh, k, active, low)
        else:
            choice = _choose(*before, k, active, low)
        return _with_gradient(choice, low, h, W, bias, back.taps, centre, seen, active, wanted)


def encode_threshold(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
    *,
    count: int | None = None,
    threshold: float = 0.0,
) -> tuple[Chosen, Float[Tensor, ""]] | None:
    """As `kernels.encode_threshold`, in the precision of `encode_topk`; None where some token has too many entries.

    Waits for the device once, to learn how many slots the fullest token needs.
    """
    n, low, W = len(x), low_dtype(x), W.contiguous()
    taken = min(len(W), ROOM if count is None else max(LEAST, TIMES * -(-count // max(n, 1))))
    if n == 0 or taken > MOST:
        return None
    h = (x if centre is None else x.detach()).contiguous()
    with without_autocast(x.device):
        indices, values, _ = _choose(h.detach(), W.detach(), bias.detach(), taken, active, low)
        reached = values.new_tensor(threshold) if count is None else _count_th(values, count)
        # NaN stays visible, as in TopK.
        kept = ~(values < reached) & ~(values <= 0)
        slots = int(kept.sum(1).max())
        if slots == taken < len(W):
            return None
        choice, back = _without_lags(*_compact(values, indices, kept, max(slots, 1))), no_lookback(n, bias)
        return _with_gradient(choice, low, h, W, bias, back.taps, centre, back, active, wanted), reached


def _count_th(values: Float[Tensor, "n t"], count: int) -> Float[Tensor, ""]:
    """The count-th largest positive value (the smallest positive one if fewer are; Inf if none is)."""
    largest = values.flatten().topk(min(max(count, 1), values.numel()), sorted=False).values.amin()
    return torch.where(largest <= 0, torch.where(values > 0, values, torch.inf).amin(), largest)


def _compact(
    values: Float[Tensor, "n t"], indices: Int[Tensor, "n t"], kept: Bool[Tensor, "n t"], slots: int
) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
    """The kept entries in their order, after the unused slots (0, 0)."""
    n, taken = values.shape
    out = values.new_zeros(n, slots), indices.new_zeros(n, slots)
    launch(_move, (n,), values, indices, kept, *out, taken, slots, BLOCK=power_of_two(taken))
    return out


def _choose(
    x: Tensor, W: Tensor, bias: Tensor, k: int, active: Bool[Tensor, " n"] | None, low: torch.dtype | None
) -> Choice:
    """Of features that see their own token alone."""
    if low is None and x.dtype == torch.float32 and len(x) >= LEAST_TOKENS and k <= MOST:
        values, indices = topk_of_product(x, W, bias, k, active)
        return _without_lags(values, indices)
    rows, weights = lowered(x, low), lowered(W, low).T
    length = max(1, CHUNK // len(W))
    parts = [
        largest_positive(
            rows[at : at + length] @ weights, k, None if active is None else active[at : at + length], bias
        )
        for at in range(0, max(len(x), 1), length)
    ]
    return _without_lags(torch.cat([part[0] for part in parts]).to(x.dtype), torch.cat([part[1] for part in parts]))


def _without_lags(values: Float[Tensor, "n s"], indices: Int[Tensor, "n s"]) -> Choice:
    return Choice(indices, values, values.new_zeros(*values.shape, 0))


def _choose_in_context(
    x: Tensor,
    W: Tensor,
    bias: Tensor,
    back: Lookback,
    position_weights: PositionWeights | None,
    k: int,
    active: Tensor | None,
    low: Any,
) -> Choice:
    if x.dtype == torch.float64 or k > MOST:
        return choose_dense(x, W, bias, back, position_weights, k, active)
    s = lowered(x, low) @ lowered(W, low).T
    scales, rows = (None, None) if position_weights is None else position_weights
    extras = Extras(bias, *((back.taps, back.sources) if back.lags else (None, None)), scales, rows)
    values, indices = keep_largest_of(candidates(s, k, extras), s, k, active, extras)
    there = (values != 0) & (back.sources >= 0).unsqueeze(2)
    lagged = torch.where(there, s[back.sources.clamp_min(0).unsqueeze(2), indices], 0)
    return Choice(indices, values.to(x.dtype), lagged.to(x.dtype).permute(1, 2, 0).contiguous())


def _with_gradient(choice: Choice, low: torch.dtype | None, *inputs: Any) -> Chosen:
    values, known = _Chosen.apply(*inputs, choice, low)  # pyright: ignore[reportGeneralTypeIssues]
    return values, choice.indices, known


class _Chosen(torch.autograd.Function):
    """Entries chosen already: what is left is their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor,
        taps: Tensor,
        centre: Tensor | None,
        back: Lookback,
        active: Tensor | None,
        wanted: Tensor | None,
        choice: Choice,
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None]:
        h, W = lowered(x.detach(), low), W.detach()
        ctx.save_for_backward(h, W, back.taps, back.sources, wanted, active, *choice)
        ctx.low, ctx.dtypes = low, (x.dtype, bias.dtype, taps.dtype)
        ctx.set_materialize_grads(False)
        values = choice.values.view_as(choice.values)
        return values, None if wanted is None else (h @ lowered(W[wanted], low).T).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_known: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, W, taps, sources, wanted, active, *choice = ctx.saved_tensors
        (x_dtype, bias_dtype, taps_dtype), chosen = ctx.dtypes, Choice(*choice)
        grad = torch.zeros_like(chosen.values) if grad is None else torch.where(chosen.values != 0, grad, 0)
        with without_autocast(h.device):
            spread, tokens = _over_lags(chosen.indices, grad, taps, sources)
            grad_W, grad_bias, shares, grad_taps = _weight_gradients(chosen, spread, tokens, h, len(W))
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = _input_gradient(chosen.indices, spread, tokens, lowered(W, ctx.low))
            if grad_known is not None and wanted is not None:
                slopes = lowered(grad_known, ctx.low)
                grad_W.index_add_(0, wanted, (slopes.T @ h).to(grad_W.dtype))
                ours = grad_known if active is None else torch.where(active.unsqueeze(1), grad_known, 0)
                shares = shares.index_add(0, wanted, ours.sum(0).to(shares.dtype))
                if grad_x is not None:
                    grad_x += slopes @ lowered(W[wanted], ctx.low)
            # The gradient of x summed over the active tokens, without computing it for each.
            grad_centre = -(shares @ W.to(shares.dtype)).to(x_dtype) if ctx.needs_input_grad[4] else None
        grad_x = None if grad_x is None else grad_x.to(x_dtype)
        rest = None, None, None, None, None
        return grad_x, grad_W.to(W.dtype), grad_bias.to(bias_dtype), grad_taps.to(taps_dtype), grad_centre, *rest


def _weight_gradients(
    chosen: Choice, spread: Float[Tensor, "l_1 n k"], tokens: Int[Tensor, "l_1 n"], h: Float[Tensor, "n d"], d_sae: int
) -> tuple[Float[Tensor, "f d"], Float[Tensor, " f"], Float[Tensor, " f"], Float[Tensor, "l f"]]:
    """Gradients of W, bias and taps, and with what weight in all rows of h enter each feature."""
    # Kept for the decoder, or by it.
    slots, grad = by_feature(chosen.indices, chosen.values, d_sae), spread[0]
    if len(spread) == 1:
        rows, sums = weighted_rows(slots, grad, h)
        return rows, sums, sums, grad.new_zeros(0, d_sae)
    by_lag, sums = weighted_rows(slots._replace(per_token=1), grad.reshape(-1, 1), chosen.lagged.flatten(0, 1))
    # Every slot counts once for each lag.
    repeated = chosen.indices.repeat(len(spread), 1), chosen.values.repeat(len(spread), 1)
    rows, shares = weighted_rows(by_feature(*repeated, d_sae), spread.flatten(0, 1), h, tokens.flatten())
    return rows, sums, shares, by_lag.T


def _over_lags(
    indices: Int[Tensor, "n k"], grad: Float[Tensor, "n k"], taps: Float[Tensor, "l f"], sources: Int[Tensor, "l n"]
) -> tuple[Float[Tensor, "l_1 n k"], Int[Tensor, "l_1 n"]]:
    """What each slot passes on to its own token and, lag by lag, to an earlier one; and which that is."""
    there = (sources >= 0).unsqueeze(2)
    earlier = torch.where(there, grad * taps[:, indices].to(grad.dtype), 0)
    own = torch.arange(len(grad), device=grad.device).unsqueeze(0)
    return torch.cat([grad.unsqueeze(0), earlier]), torch.cat([own, sources.clamp_min(0)])


def _input_gradient(
    indices: Int[Tensor, "n k"], spread: Float[Tensor, "l_1 n k"], tokens: Int[Tensor, "l_1 n"], W: Float[Tensor, "f d"]
) -> Float[Tensor, "n d"]:
    """Rows of W with these weights, added to the token each belongs to; no two of one lag belong to the same."""
    out = combine(indices, spread[0], W)
    for weights, token in zip(spread[1:], tokens[1:], strict=True):
        out.index_add_(0, token, combine(indices, weights, W))
    return out


@triton.jit
@no_type_check
def _move(values, indices, kept, out_values, out_indices, taken, slots, BLOCK: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    place = t * taken + lane
    used = tl.load(kept + place, mask=lane < taken, other=0) != 0
    before = slots - tl.sum(used.to(tl.int32), 0)
    slot = t * slots + before + tl.cumsum(used.to(tl.int32), 0) - 1
    tl.store(out_values + slot, tl.load(values + place, mask=used, other=0), mask=used)
    tl.store(out_indices + slot, tl.load(indices + place, mask=used, other=0), mask=used)
