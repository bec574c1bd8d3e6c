"""TopK of a linear encoder: one product forward, work proportional to the active features backward.

Shapes: N tokens, F d_sae, D d_in, K k, M further features.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import loops_for, sure_loops
from chronosae.kernels.gpu import gpu_kernels
from chronosae.kernels.low_precision import LEAST_TOKENS, low_precision_pays, topk_of_product
from chronosae.kernels.memory import recycled_product
from chronosae.kernels.rows import gathered
from chronosae.kernels.select import at_slots, largest_positive, largest_positive_dense
from chronosae.kernels.slots import by_feature, combine, weighted_rows
from chronosae.kernels.threshold import above_threshold

Chosen = tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n m"] | None]


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

    On a CPU with fast bfloat16 products the choice is made with their help and is still exact: see `low_precision`.

    Arguments:
        active: tokens that get any; all by default. Rows of the others must be zero.
        centre: what was subtracted from every active row of x. It then gets the gradient that x would have passed on,
            without computing that of every row.
        wanted: features whose `x W^T` (no bias) is also returned, all tokens', with its gradient: the third output.
    """
    gpu = gpu_kernels(x, W, bias)
    if gpu is not None:
        return gpu.encode_topk(x, W, bias, k, active, centre, wanted)
    if loops_for(x, W, bias) is None:
        return encode_topk_dense(x, W, bias, k, active, centre, wanted)
    x, W = (x if centre is None else x.detach()).contiguous(), W.contiguous()
    values, indices = _choose(x.detach(), W.detach(), bias.detach(), k, active)
    return _with_gradient(x, W, bias, active, centre, wanted, values, indices)


def encode_topk_dense(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> Chosen:
    """The reference of `encode_topk`: every pre-activation, with a gradient as large."""
    if centre is not None:
        moved = centre.detach() - centre
        x = x.detach() + (moved if active is None else moved * active.unsqueeze(-1))
    s = x @ W.T
    pre = s + bias
    indices = largest_positive_dense(pre, k)[1]
    if active is not None:
        indices = indices * active.unsqueeze(1)
    return at_slots(pre, indices, active), indices, None if wanted is None else s[:, wanted]


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
    gpu, loops = gpu_kernels(x, W, bias), loops_for(x, W, bias)
    if gpu is not None:
        return gpu.encode_threshold(x, W, bias, active, centre, wanted, count=count, threshold=threshold)
    if loops is None or x.dtype != torch.float32 or len(x) < LEAST_TOKENS or not low_precision_pays():
        return None
    x, W = (x if centre is None else x.detach()).contiguous(), W.contiguous()
    found = above_threshold(loops, x.detach(), W.detach(), bias.detach(), active, count=count, threshold=threshold)
    if found is None:
        return None
    return _with_gradient(x, W, bias, active, centre, wanted, found.values, found.indices), found.threshold


def _with_gradient(
    x: Tensor,
    W: Tensor,
    bias: Tensor,
    active: Tensor | None,
    centre: Tensor | None,
    wanted: Tensor | None,
    values: Tensor,
    indices: Tensor,
) -> Chosen:
    values, known = _Chosen.apply(x, W, bias, active, centre, wanted, values, indices)  # pyright: ignore[reportGeneralTypeIssues]
    return values, indices, known


class _Chosen(torch.autograd.Function):
    """Entries chosen already: what is left is their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor,
        active: Tensor | None,
        centre: Tensor | None,
        wanted: Tensor | None,
        values: Tensor,
        indices: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        h, W = x.detach(), W.detach()
        ctx.save_for_backward(h, W, indices, values, wanted, active)
        ctx.set_materialize_grads(False)
        if wanted is None or not len(wanted):
            return values.view_as(values), None if wanted is None else h.new_zeros(len(h), 0)
        return values.view_as(values), recycled_product(h, gathered(W, wanted).T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_known: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, W, indices, values, wanted, active = ctx.saved_tensors
        grad = torch.zeros_like(values) if grad is None else grad.contiguous()
        grad_W, grad_bias = weighted_rows(by_feature(indices, values, len(W)), grad, h)
        grad_x = combine(indices, torch.where(values != 0, grad, 0), W) if ctx.needs_input_grad[0] else None
        if grad_known is not None and len(wanted):
            grad_W.index_add_(0, wanted, recycled_product(grad_known.T, h))
            if grad_x is not None:
                grad_x += grad_known @ W[wanted]
        grad_centre = None
        if ctx.needs_input_grad[4]:
            # The gradient of x summed over the active tokens, without computing it for each.
            total = grad_bias
            if grad_known is not None:
                total = total.index_add(
                    0, wanted, (grad_known.sum(0) if active is None else active.to(grad_known.dtype) @ grad_known)
                )
            grad_centre = -(total @ W)
        return grad_x, grad_W, grad_bias, None, grad_centre, None, None, None


def _choose(x: Tensor, W: Tensor, bias: Tensor, k: int, active: Tensor | None) -> tuple[Tensor, Tensor]:
    loops = sure_loops(x)
    if x.dtype == torch.float32 and len(x) >= LEAST_TOKENS and low_precision_pays():
        return topk_of_product(loops, x, W, bias, k, active)
    values, indices = largest_positive(torch.addmm(bias, x, W.T), k)
    if active is not None:
        values, indices = values * active.unsqueeze(-1), indices * active.unsqueeze(-1)
    return values, indices
