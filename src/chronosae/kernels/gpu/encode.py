"""TopK of a linear encoder on a GPU: one product forward, work proportional to the active features backward.

Shapes: N tokens, F d_sae, D d_in, K k, M further features.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.gpu.combine import combine
from chronosae.kernels.gpu.exact import CHUNK, topk_of_product
from chronosae.kernels.gpu.largest import MOST, largest_positive
from chronosae.kernels.gpu.precision import low_dtype, lowered, without_autocast
from chronosae.kernels.gpu.slots import by_feature
from chronosae.kernels.gpu.weighted_rows import weighted_rows

# Fewer tokens don't pay for rounding all weights.
LEAST_TOKENS = 128


def encode_topk(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n m"] | None]:
    """As `kernels.encode_topk`: values, indices, and `x W^T` of `wanted`.

    float32 is exact. Under autocast, or in half-wide types, the product is made in that type and the choice is among
    its rounded entries plus the bias in full, which are also the values: what the dense reference does there.
    """
    low, W = low_dtype(x), W.contiguous()
    h = (x if centre is None else x.detach()).contiguous()
    with without_autocast(x.device):
        chosen = choose(h.detach(), W.detach(), bias.detach(), k, active, low)
        return with_gradient(h, W, bias, active, centre, wanted, chosen, low)


def with_gradient(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    active: Bool[Tensor, " n"] | None,
    centre: Float[Tensor, " d"] | None,
    wanted: Int[Tensor, " m"] | None,
    chosen: tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]],
    low: torch.dtype | None,
) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"], Float[Tensor, "n m"] | None]:
    """Values and indices chosen already, with the gradient of the values, and `x W^T` of `wanted` with its own."""
    values, known = _Chosen.apply(x, W, bias, active, centre, wanted, *chosen, low)  # pyright: ignore[reportGeneralTypeIssues]
    return values, chosen[1], known


def choose(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None,
    low: torch.dtype | None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values, in x's type, and indices of the chosen; no gradient."""
    if low is None and x.dtype == torch.float32 and len(x) >= LEAST_TOKENS and k <= MOST:
        return topk_of_product(x, W, bias, k, active)
    rows, weights = lowered(x, low), lowered(W, low).T
    length = max(1, CHUNK // len(W))
    parts = [
        largest_positive(
            rows[at : at + length] @ weights, k, None if active is None else active[at : at + length], bias
        )
        for at in range(0, max(len(x), 1), length)
    ]
    return torch.cat([part[0] for part in parts]).to(x.dtype), torch.cat([part[1] for part in parts])


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
        low: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None]:
        h, W = lowered(x.detach(), low), W.detach()
        ctx.save_for_backward(h, W, indices, values, wanted, active)
        ctx.set_materialize_grads(False)
        ctx.low, ctx.dtypes = low, (x.dtype, bias.dtype)
        if wanted is None:
            return values.view_as(values), None
        return values.view_as(values), (h @ lowered(W[wanted], low).T).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_known: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, W, indices, values, wanted, active = ctx.saved_tensors
        grad = torch.zeros_like(values) if grad is None else grad.contiguous()
        with without_autocast(h.device):
            grad_W, grad_bias = weighted_rows(by_feature(indices, values, len(W)), grad, h)
            grad_x = (
                combine(indices, torch.where(values != 0, grad, 0), lowered(W, ctx.low))
                if ctx.needs_input_grad[0]
                else None
            )
            grad_centre = -(grad_bias @ W.to(grad_bias.dtype)) if ctx.needs_input_grad[4] else None
            if grad_known is not None and wanted is not None:
                slopes, rows = lowered(grad_known, ctx.low), lowered(W[wanted], ctx.low)
                grad_W.index_add_(0, wanted, (slopes.T @ h).to(grad_W.dtype))
                if grad_x is not None:
                    grad_x += slopes @ rows
                if grad_centre is not None:
                    # The gradient of x summed over the active tokens, without computing it for each.
                    ours = grad_known if active is None else torch.where(active.unsqueeze(1), grad_known, 0)
                    grad_centre -= (ours.sum(0) @ W[wanted]).to(grad_centre.dtype)
        x_dtype, bias_dtype = ctx.dtypes
        grad_x, grad_centre = (None if g is None else g.to(x_dtype) for g in (grad_x, grad_centre))
        return grad_x, grad_W.to(W.dtype), grad_bias.to(bias_dtype), None, grad_centre, None, None, None, None
