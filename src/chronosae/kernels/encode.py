"""TopK of a linear encoder: one product forward, work proportional to the active features backward.

Features may look back along the context and be weighed by their place: `reference` defines what is chosen. One path
serves all: a choice without gradient, exact where low precision pays, and then the gradient of what was chosen.

Shapes: N tokens, F d_sae, D d_in, K k, M further features, L lags, S slots.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import gpu, loops
from chronosae.kernels.dispatch import (
    compiled_kernels,
    evenly,
    gathered,
    parallel,
    recycled,
    recycled_product,
    triton_kernels,
)
from chronosae.kernels.exact_choice import choose_above, choose_exactly
from chronosae.kernels.reference import (
    LEAST_TOKENS,
    Choice,
    Chosen,
    Lookback,
    PositionWeights,
    choose_dense,
    encode_topk_in_context_dense,
    low_precision_pays,
    no_lookback,
)
from chronosae.kernels.select import largest_positive
from chronosae.kernels.slots import by_feature, combine, weighted_rows


def encode_topk(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> Chosen:
    """The k largest positive entries of each row of `x W^T + bias`: values, and indices ascending; unused slots (0, 0).

    `encode_topk_in_context` of features that see their own token alone.
    """
    return encode_topk_in_context(x, W, bias, k, no_lookback(len(x), bias), None, active, centre, wanted)


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
    """The k features of each token whose `max(pre, 0) weight` is largest and positive (see `reference` for `pre`).

    Returns `pre` at these features (no weight in it), with gradients to x, W, bias and taps; indices, ascending; unused
    slots are (0, 0). On a CPU with fast bfloat16 products the choice is made with their help and is still exact: see
    `reference`.

    Args:
        back: lags and taps; with no lag, `pre = x W^T + bias`.
        position_weights: what pre-activations are multiplied with before they are compared.
        active: tokens that get any; all by default. Rows of the others must be zero.
        centre: what was subtracted from every active row of x. It then gets the gradient that x would have passed on,
            without computing that of every row.
        wanted: features whose `x W^T` (no lags, no bias) is also returned, all tokens', with its gradient: the third
            output.
    """
    tensors = x, W, bias, back.taps
    if triton_kernels(*tensors):
        return gpu.encode.encode_topk_in_context(x, W, bias, k, back, position_weights, active, centre, wanted)
    if not compiled_kernels(*tensors):
        return encode_topk_in_context_dense(x, W, bias, k, back, position_weights, active, centre, wanted)
    x, W, seen = (x if centre is None else x.detach()).contiguous(), W.contiguous(), back.of_active(active)
    weigh = None if position_weights is None else position_weights.detached()
    before = x.detach(), W.detach(), bias.detach(), seen, weigh, k, active
    choice = choose_exactly(*before) if _exactly(x) else choose_dense(*before, largest_positive)
    # Unused slots are skipped one by one, not by fours, where terms come from several tokens or are weighed.
    fours = not back.lags and weigh is None
    return _with_gradient(choice, fours, x, W, bias, back.taps, centre, seen, active, wanted)


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
    """The positive entries that reach `threshold`, or with `count` the count-th largest of all active tokens'.

    Arguments and results are those of `encode_topk`, with as many slots as the fullest token needs; the threshold comes
    with them. None where this can't be done without every entry: elsewhere than on a CPU with fast bfloat16 products,
    for few tokens, or where the codes are not sparse.
    """
    if triton_kernels(x, W, bias):
        return gpu.encode.encode_threshold(x, W, bias, active, centre, wanted, count=count, threshold=threshold)
    if not compiled_kernels(x, W, bias) or not _exactly(x):
        return None
    x, W, back = (x if centre is None else x.detach()).contiguous(), W.contiguous(), no_lookback(len(x), bias)
    found = choose_above(x.detach(), W.detach(), bias.detach(), active, count=count, threshold=threshold)
    if found is None:
        return None
    return _with_gradient(found[0], True, x, W, bias, back.taps, centre, back, active, wanted), found[1]


def _exactly(x: Tensor) -> bool:
    """By products in bfloat16: there they pay."""
    return x.dtype == torch.float32 and len(x) >= LEAST_TOKENS and low_precision_pays()


def _with_gradient(choice: Choice, fours: bool, *inputs: Any) -> Chosen:
    values, known = _Chosen.apply(*inputs, choice, fours)  # pyright: ignore[reportGeneralTypeIssues]
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
        fours: bool,
    ) -> tuple[Tensor, Tensor | None]:
        h, W = x.detach(), W.detach()
        ctx.save_for_backward(h, W, back.taps, back.sources, wanted, active, *choice)
        ctx.lags, ctx.fours = back.lags, fours
        ctx.set_materialize_grads(False)
        values = choice.values.view_as(choice.values)
        if wanted is None or not len(wanted):
            return values, None if wanted is None else h.new_zeros(len(h), 0)
        return values, recycled_product(h, gathered(W, wanted).T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_known: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, W, taps, sources, wanted, active, *choice = ctx.saved_tensors
        back, chosen = Lookback(taps, ctx.lags, sources), Choice(*choice)
        grad = torch.zeros_like(chosen.values) if grad is None else grad.contiguous()
        grad_W, grad_bias, shares, grad_taps = _weight_gradients(chosen, grad, h, len(W), back)
        grad_x = _input_gradient(chosen, grad, W, back, ctx.fours) if ctx.needs_input_grad[0] else None
        if grad_known is not None and len(wanted):
            grad_W.index_add_(0, wanted, recycled_product(grad_known.T, h))
            ours = grad_known.sum(0) if active is None else active.to(grad_known.dtype) @ grad_known
            shares = shares.index_add(0, wanted, ours)
            if grad_x is not None:
                grad_x += grad_known @ W[wanted]
        # The gradient of x summed over the active tokens, without computing it for each.
        grad_centre = -(shares @ W) if ctx.needs_input_grad[4] else None
        return grad_x, grad_W, grad_bias, grad_taps, grad_centre, None, None, None, None, None


def _weight_gradients(
    chosen: Choice, grad: Float[Tensor, "n k"], h: Float[Tensor, "n d"], d_sae: int, back: Lookback
) -> tuple[Float[Tensor, "f d"], Float[Tensor, " f"], Float[Tensor, " f"], Float[Tensor, "l f"]]:
    """Gradients of W, bias and taps, and with what weight in all rows of h enter each feature."""
    slots, lags = by_feature(chosen.indices, chosen.values, d_sae), len(back.lags)
    if not lags:
        rows, total = weighted_rows(slots, grad, h)
        return rows, total, total, h.new_zeros(0, d_sae)
    sums, out, n = h.new_empty(d_sae, lags + 2), recycled((d_sae, h.shape[1]), h.dtype), (lags + 1) * len(slots.place)
    # Numbers of tokens fit in 32 bits, and what is read once for every term should be small.
    terms, coefficients, ends = np.empty(n, np.int32), h.new_empty(n).numpy(), np.empty(d_sae, np.int64)
    flat = grad.flatten().numpy(), chosen.lagged.flatten(0, 1).numpy(), back.taps.numpy(), back.sources.numpy()
    written = terms, coefficients, ends, sums.numpy()
    before = slots.start, slots.place, slots.per_token, *flat
    parallel(slots.bounds, lambda a, b: loops.sparse.spread_over_lags(*before, a, b, *written))
    listed = slots.start, ends, terms, coefficients, h.numpy(), lags + 1
    parallel(slots.bounds, lambda a, b: loops.sparse.add_terms(*listed, a, b, out.numpy()))
    return out, sums[:, 0].contiguous(), sums[:, 1].contiguous(), sums[:, 2:].T.contiguous()


def _input_gradient(
    chosen: Choice, grad: Float[Tensor, "n k"], W: Float[Tensor, "f d"], back: Lookback, fours: bool
) -> Float[Tensor, "n d"]:
    used = torch.where(chosen.values != 0, grad, 0)
    if fours:
        return combine(chosen.indices, used, W)
    out = recycled((len(grad), W.shape[1]), W.dtype)
    arrays = [t.numpy() for t in (chosen.indices, used, W, back.taps, back.sources)]
    lags = torch.tensor(back.lags, dtype=torch.int64).numpy()
    parallel(evenly(len(grad), 16), lambda a, b: loops.sparse.combine_in_context(*arrays, lags, a, b, out.numpy()))
    return out
