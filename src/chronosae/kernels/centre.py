"""Inputs minus a vector, in one pass.

Shapes: N tokens, D d_in.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel
from chronosae.kernels.memory import recycled


def centred_rows(
    x: Float[Tensor, "n d"], centre: Float[Tensor, " d"], active: Bool[Tensor, " n"] | None
) -> Float[Tensor, "n d"]:
    """`x - centre`, zero for tokens that aren't active whatever they hold. No gradient."""
    x, centre = x.detach(), centre.detach()
    loops = loops_for(x, centre)
    if loops is None:
        return x - centre if active is None else torch.where(active.unsqueeze(-1), x - centre, 0)
    out = recycled(tuple(x.shape), x.dtype)
    active = torch.ones(len(x), dtype=torch.bool) if active is None else active
    before = [t.contiguous().numpy() for t in (x, centre, active)]
    parallel(evenly(len(x), 64), lambda a, b: loops.centred(*before, a, b, out.numpy()))
    return out


def centred(
    x: Float[Tensor, "n d"], centre: Float[Tensor, " d"], active: Bool[Tensor, " n"] | None
) -> Float[Tensor, "n d"]:
    """The same, with its gradient to `centre` alone."""
    return _Centred.apply(x.detach(), centre, active)  # pyright: ignore[reportReturnType]


class _Centred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, centre: Tensor, active: Tensor | None) -> Tensor:
        ctx.save_for_backward(active)
        return centred_rows(x, centre, active)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (active,) = ctx.saved_tensors
        # A zero weight would keep the NaN of a token that isn't active.
        grad = grad if active is None or bool(active.all()) else grad[active]
        return None, -grad.sum(0), None
