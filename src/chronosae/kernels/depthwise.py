"""Depthwise taps along the context: several dilations of every channel in one pass, no shifted copy.

Shapes: N tokens, D channels, R dilations, J taps, L different lags.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel, sure_loops
from chronosae.kernels.memory import recycled


def depthwise_taps(
    x: Float[Tensor, "n d"],
    weights: Float[Tensor, "r j d"],
    which: Int[Tensor, "r j"],
    lags: tuple[int, ...],
    sources: Int[Tensor, "l n"],
) -> Float[Tensor, "n r d"]:
    """`y[t, r, c] = sum_j weights[r, j, c] x[t - lags[which[r, j]], c]`, gradients to x and weights.

    `sources[l, t]` is the token `lags[l]` before t (after it for a negative lag); -1 where there is none: it counts as
    zero.
    """
    if loops_for(x, weights) is None:
        return depthwise_taps_dense(x, weights, which, sources)
    return _Depthwise.apply(x.contiguous(), weights.contiguous(), which, lags, sources)  # pyright: ignore[reportReturnType]


def depthwise_taps_dense(
    x: Float[Tensor, "n d"], weights: Float[Tensor, "r j d"], which: Int[Tensor, "r j"], sources: Int[Tensor, "l n"]
) -> Float[Tensor, "n r d"]:
    """The reference of `depthwise_taps`: one moved copy a lag."""
    moved = torch.stack([torch.where((s >= 0).unsqueeze(1), x[s.clamp_min(0)], 0) for s in sources])
    return torch.einsum("rjnd,rjd->nrd", moved[which], weights)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, which: Tensor, lags: tuple[int, ...], sources: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights, which, sources)
        ctx.lags = lags
        loops, out = sure_loops(x), recycled((len(x), len(which), x.shape[1]), x.dtype)
        arrays = [t.detach().numpy() for t in (x, weights, which, sources)]
        parallel(evenly(len(x), 16), lambda a, b: loops.depthwise(*arrays, a, b, out.numpy()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weights, which, sources = ctx.saved_tensors
        loops, grad, grad_x, grad_weights = sure_loops(x), grad.contiguous(), None, None
        g, w, index, places = (t.detach().numpy() for t in (grad, weights, which, sources))
        if ctx.needs_input_grad[0]:
            grad_x, lags = recycled(tuple(x.shape), x.dtype), torch.tensor(ctx.lags, dtype=torch.int64).numpy()
            before, out = (g, w, index, places, lags), grad_x.numpy()
            parallel(evenly(len(x), 16), lambda a, b: loops.depthwise_input_gradient(*before, a, b, out))
        if ctx.needs_input_grad[1]:
            grad_weights = torch.empty_like(weights)
            read, slopes = (g, x.detach().numpy(), index, places), grad_weights.numpy()
            parallel(evenly(x.shape[1], 64), lambda a, b: loops.depthwise_weight_gradient(*read, a, b, slopes))
        return grad_x, grad_weights, None, None, None
