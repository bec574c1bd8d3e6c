"""TopK on a GPU of pre-activations that look back along the context, or are weighed by their place.

The sum over lags, the bias and the gate are made as the choice reads the product's entries. Where a chosen entry looked
back at an earlier token, that token's row gets a share of its gradient: one slot and lag count as one more slot.

Shapes: N tokens, F d_sae, D d_in, K k, M further features, L lags, R = (L + 1) N.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.context import Gate, Lookback
from chronosae.kernels.context_choice import Choice, choose_dense
from chronosae.kernels.gpu.candidates import candidates
from chronosae.kernels.gpu.combine import combine
from chronosae.kernels.gpu.entries import Extras
from chronosae.kernels.gpu.keep import keep_largest_of
from chronosae.kernels.gpu.largest import MOST
from chronosae.kernels.gpu.precision import low_dtype, lowered, without_autocast
from chronosae.kernels.gpu.slots import by_feature
from chronosae.kernels.gpu.weighted_rows import weighted_rows


def encode_topk_in_context(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    back: Lookback,
    gate: Gate | None = None,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n m"] | None]:
    """As `kernels.encode_topk_in_context`.

    The product is torch's in x's own type, or in bfloat16 under autocast; the product of all tokens is in memory.
    """
    low, W = low_dtype(x), W.contiguous()
    h = (x if centre is None else x.detach()).contiguous()
    known = Lookback(back.taps.detach().contiguous(), back.lags, _active(back.sources, active))
    if gate is not None:
        gate = Gate(gate.weights.detach().contiguous(), gate.rows.contiguous())
    with without_autocast(x.device):
        chosen = _choose(h.detach(), W.detach(), bias.detach(), known, gate, k, active, low)
        values, products = _ChosenInContext.apply(  # pyright: ignore[reportGeneralTypeIssues]
            h, W, bias, back.taps, centre, known.sources, active, wanted, chosen, low
        )
    return values, chosen.indices, products


def _active(sources: Int[Tensor, "l n"], active: Bool[Tensor, " n"] | None) -> Int[Tensor, "l n"]:
    """Without tokens that aren't active, whose rows are zero and don't hold the centre."""
    if active is None:
        return sources.contiguous()
    return torch.where((sources >= 0) & active[sources.clamp_min(0)], sources, -1)


def _choose(
    x: Tensor, W: Tensor, bias: Tensor, back: Lookback, gate: Gate | None, k: int, active: Tensor | None, low: Any
) -> Choice:
    if x.dtype == torch.float64 or k > MOST:
        return choose_dense(x, W, bias, back, gate, k, active)
    s = lowered(x, low) @ lowered(W, low).T
    gates, rows = (None, None) if gate is None else gate
    extras = Extras(bias, *((back.taps, back.sources) if back.lags else (None, None)), gates, rows)
    values, indices = keep_largest_of(candidates(s, k, extras), s, k, active, extras)
    there = (values != 0) & (back.sources >= 0).unsqueeze(2)
    lagged = torch.where(there, s[back.sources.clamp_min(0).unsqueeze(2), indices], 0)
    return Choice(indices, values.to(x.dtype), lagged.to(x.dtype).permute(1, 2, 0).contiguous())


class _ChosenInContext(torch.autograd.Function):
    """Entries chosen already: what is left is their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor,
        taps: Tensor,
        centre: Tensor | None,
        sources: Tensor,
        active: Tensor | None,
        wanted: Tensor | None,
        choice: Choice,
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None]:
        h, W = lowered(x.detach(), low), W.detach()
        ctx.save_for_backward(h, W, taps.detach(), sources, wanted, active, *choice)
        ctx.low, ctx.dtypes = low, (x.dtype, bias.dtype, taps.dtype)
        ctx.set_materialize_grads(False)
        values = choice.values.view_as(choice.values)
        return values, None if wanted is None else (h @ lowered(W[wanted], low).T).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_known: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, W, taps, sources, wanted, active, indices, values, lagged = ctx.saved_tensors
        x_dtype, bias_dtype, taps_dtype = ctx.dtypes
        grad = torch.zeros_like(values) if grad is None else torch.where(values != 0, grad, 0)
        with without_autocast(h.device):
            grad_bias, grad_taps = _by_lag(indices, values, grad, lagged, len(W))
            spread, tokens = _over_lags(indices, grad, taps, sources)
            # The kept result of `by_feature` serves the decoder; here every slot counts once for each lag.
            repeated = indices.repeat(len(spread), 1), values.repeat(len(spread), 1)
            slots = by_feature(*repeated, len(W))
            grad_W, shares = weighted_rows(slots, spread.flatten(0, 1), h, tokens.flatten())
            grad_x = _input_gradient(indices, spread, tokens, lowered(W, ctx.low)) if ctx.needs_input_grad[0] else None
            if grad_known is not None and wanted is not None:
                slopes = lowered(grad_known, ctx.low)
                grad_W.index_add_(0, wanted, (slopes.T @ h).to(grad_W.dtype))
                ours = grad_known if active is None else torch.where(active.unsqueeze(1), grad_known, 0)
                shares.index_add_(0, wanted, ours.sum(0).to(shares.dtype))
                if grad_x is not None:
                    grad_x += slopes @ lowered(W[wanted], ctx.low)
            # The gradient of x summed over the active tokens, without computing it for each.
            grad_centre = -(shares @ W.to(shares.dtype)).to(x_dtype) if ctx.needs_input_grad[4] else None
        grad_x = None if grad_x is None else grad_x.to(x_dtype)
        rest = None, None, None, None, None
        return grad_x, grad_W.to(W.dtype), grad_bias.to(bias_dtype), grad_taps.to(taps_dtype), grad_centre, *rest


def _by_lag(
    indices: Int[Tensor, "n k"],
    values: Float[Tensor, "n k"],
    grad: Float[Tensor, "n k"],
    lagged: Float[Tensor, "n k l"],
    d_sae: int,
) -> tuple[Float[Tensor, " f"], Float[Tensor, "l f"]]:
    """Sums over each feature's slots of the gradient, and of the gradient times what each lag saw."""
    slots = by_feature(indices, values, d_sae)._replace(per_token=1)
    if not lagged.shape[2]:
        # One column, of which nothing is used: the sums are what is wanted.
        return weighted_rows(slots, grad.view(-1, 1), grad.view(-1, 1))[1], grad.new_zeros(0, d_sae)
    rows, sums = weighted_rows(slots, grad.view(-1, 1), lagged.flatten(0, 1))
    return sums, rows.T


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
