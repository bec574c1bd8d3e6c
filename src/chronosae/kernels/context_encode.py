"""TopK of a linear encoder whose features look back along the context, or are weighed by their place.

Shapes: N tokens, F d_sae, D d_in, K k, M further features, L lags, S slots.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel, sure_loops
from chronosae.kernels.context import Gate, Lookback, compared, look_back
from chronosae.kernels.context_choice import Choice, choose_dense, choose_exactly
from chronosae.kernels.gpu import gpu_kernels
from chronosae.kernels.low_precision import LEAST_TOKENS, low_precision_pays
from chronosae.kernels.memory import recycled
from chronosae.kernels.select import largest_positive_dense
from chronosae.kernels.slots import by_feature, weighted_rows

Chosen = tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n m"] | None]


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
) -> Chosen:
    """The k features of each token whose `max(pre, 0) gate` is largest and positive (see `context` for `pre`).

    Returns `pre` at these features (no gate in it), with gradients to x, W, bias and taps; indices, ascending; unused
    slots are (0, 0).

    Arguments:
        back: lags and taps; with no lag, `pre = x W^T + bias`.
        gate: what pre-activations are multiplied with before they are compared.
        active: tokens that get any; all by default. Rows of the others must be zero.
        centre: what was subtracted from every active row of x, as in `encode_topk`.
        wanted: features whose `x W^T` (no lags, no bias) is also returned, with its gradient: the third output.
    """
    gpu, loops = gpu_kernels(x, W, bias, back.taps), loops_for(x, W, bias, back.taps)
    if gpu is not None:
        return gpu.encode_topk_in_context(x, W, bias, k, back, gate, active, centre, wanted)
    if loops is None:
        return encode_topk_in_context_dense(x, W, bias, k, back, gate, active, centre, wanted)
    x, W = (x if centre is None else x.detach()).contiguous(), W.contiguous()
    plain = _active_lags(back, active)
    if gate is not None:
        gate = Gate(gate.weights.detach().contiguous(), gate.rows.contiguous())
    before = x.detach(), W.detach(), bias.detach(), plain, gate, k, active
    exact = x.dtype == torch.float32 and len(x) >= LEAST_TOKENS and low_precision_pays()
    choice = choose_exactly(loops, *before) if exact else choose_dense(*before)
    values, known = _ChosenInContext.apply(x, W, bias, back.taps, centre, plain, active, wanted, choice)  # pyright: ignore[reportGeneralTypeIssues]
    return values, choice.indices, known


def encode_topk_in_context_dense(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    back: Lookback,
    gate: Gate | None = None,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> Chosen:
    """The reference of `encode_topk_in_context`: every pre-activation, with a gradient as large."""
    if centre is not None:
        moved = centre.detach() - centre
        x = x.detach() + (moved if active is None else moved * active.unsqueeze(-1))
    s = x @ W.T
    pre = look_back(s, back) + bias
    best, indices = largest_positive_dense(compared(pre, gate), k)
    used = best != 0 if active is None else (best != 0) & active.unsqueeze(1)
    indices = torch.where(used, indices, 0)
    values = torch.where(used, pre.gather(1, indices), 0)
    return values, indices, None if wanted is None else s[:, wanted]


def _active_lags(back: Lookback, active: Bool[Tensor, " n"] | None) -> Lookback:
    """Without gradient, and without tokens that aren't active, whose rows are zero and don't hold the centre."""
    sources = back.sources
    if active is not None:
        sources = torch.where((sources >= 0) & active[sources.clamp_min(0)], sources, -1)
    return Lookback(back.taps.detach().contiguous(), back.lags, sources.contiguous())


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
        back: Lookback,
        active: Tensor | None,
        wanted: Tensor | None,
        choice: Choice,
    ) -> tuple[Tensor, Tensor | None]:
        h, W = x.detach(), W.detach()
        ctx.save_for_backward(h, W, back.taps, back.sources, wanted, active, *choice)
        ctx.lags = back.lags
        ctx.set_materialize_grads(False)
        if wanted is None or not len(wanted):
            return choice.values.view_as(choice.values), None if wanted is None else h.new_zeros(len(h), 0)
        known = torch.mm(h, W[wanted].T, out=recycled((len(h), len(wanted)), h.dtype))
        return choice.values.view_as(choice.values), known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_known: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, W, taps, sources, wanted, active, *choice = ctx.saved_tensors
        back, chosen = Lookback(taps, ctx.lags, sources), Choice(*choice)
        grad = torch.zeros_like(chosen.values) if grad is None else grad.contiguous()
        grad_W, grad_bias, shares, grad_taps = _weight_gradients(chosen, grad, h, len(W), back)
        grad_x = _input_gradient(chosen, grad, W, back) if ctx.needs_input_grad[0] else None
        if grad_known is not None and len(wanted):
            grad_W[wanted] += grad_known.T @ h
            shares[wanted] += grad_known.sum(0) if active is None else active.to(grad_known.dtype) @ grad_known
            if grad_x is not None:
                grad_x += grad_known @ W[wanted]
        # The gradient of x summed over the active tokens, without computing it for each.
        grad_centre = -(shares @ W) if ctx.needs_input_grad[4] else None
        return grad_x, grad_W, grad_bias, grad_taps, grad_centre, None, None, None, None


def _weight_gradients(
    chosen: Choice, grad: Float[Tensor, "n k"], h: Float[Tensor, "n d"], d_sae: int, back: Lookback
) -> tuple[Float[Tensor, "f d"], Float[Tensor, " f"], Float[Tensor, " f"], Float[Tensor, "l f"]]:
    """Gradients of W, bias and taps, and with what weight in all rows of h enter each feature."""
    loops, slots, lags = sure_loops(h), by_feature(chosen.indices, chosen.values, d_sae), len(back.lags)
    if not lags:
        rows, total = weighted_rows(slots, grad, h)
        return rows, total, total.clone(), h.new_zeros(0, d_sae)
    sums, out, n = h.new_empty(d_sae, lags + 2), recycled((d_sae, h.shape[1]), h.dtype), (lags + 1) * len(slots.place)
    # Numbers of tokens fit in 32 bits, and what is read once for every term should be small.
    terms, coefficients, ends = np.empty(n, np.int32), h.new_empty(n).numpy(), np.empty(d_sae, np.int64)
    flat = grad.flatten().numpy(), chosen.lagged.flatten(0, 1).numpy(), back.taps.numpy(), back.sources.numpy()
    written = terms, coefficients, ends, sums.numpy()
    before = slots.start, slots.place, slots.per_token, *flat
    parallel(slots.bounds, lambda a, b: loops.spread_over_lags(*before, a, b, *written))
    listed = slots.start, ends, terms, coefficients, h.numpy(), lags + 1
    parallel(slots.bounds, lambda a, b: loops.add_terms(*listed, a, b, out.numpy()))
    return out, sums[:, 0].contiguous(), sums[:, 1].contiguous(), sums[:, 2:].T.contiguous()


def _input_gradient(
    chosen: Choice, grad: Float[Tensor, "n k"], W: Float[Tensor, "f d"], back: Lookback
) -> Float[Tensor, "n d"]:
    loops, out = sure_loops(W), recycled((len(grad), W.shape[1]), W.dtype)
    used = torch.where(chosen.values != 0, grad, 0)
    arrays = [t.numpy() for t in (chosen.indices, used, W, back.taps, back.sources)]
    lags = torch.tensor(back.lags, dtype=torch.int64).numpy()
    parallel(evenly(len(grad), 16), lambda a, b: loops.combine_in_context(*arrays, lags, a, b, out.numpy()))
    return out
