"""Products in bfloat16 where training can bear them: sums in float32, results and operands rounded to 8 bits.

Relative to the norms of the operands, a result is off by at most 2^-7 (2^-9 for each operand and the result, and their
products); measured, about 2^-8.

Shapes: N tokens, D, E widths.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import loops_for
from chronosae.kernels.low_precision import LEAST_TOKENS, low_precision_pays
from chronosae.kernels.memory import recycled

_allowed: ContextVar[bool] = ContextVar("mixed_products", default=False)


@contextmanager
def mixed_products(allowed: bool = True) -> Iterator[None]:
    """Inside, `product` and `mix_taps` may use bfloat16."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def product(x: Float[Tensor, "*n d"], W: Float[Tensor, "d e"]) -> Float[Tensor, "*n e"]:
    """`x @ W`; inside `mixed_products`, for many tokens on a CPU that is faster at it, in bfloat16, gradients too."""
    rows = x.reshape(-1, x.shape[-1])
    if not mixed_pays(rows, W):
        return x @ W
    return _Product.apply(rows, W).view(*x.shape[:-1], W.shape[1])  # pyright: ignore[reportOptionalMemberAccess]


def mixed_pays(x: Float[Tensor, "n d"], *weights: Tensor) -> bool:
    """Inside `mixed_products`, for many tokens: products of these tensors in bfloat16 are faster."""
    return _allowed.get() and len(x) >= LEAST_TOKENS and pays(x, *weights)


def pays(*tensors: Tensor) -> bool:
    """Products of these tensors in bfloat16 are faster, and nothing else was asked for."""
    single = all(t.dtype == torch.float32 for t in tensors) and not torch.is_autocast_enabled(tensors[0].device.type)
    return single and loops_for(*tensors) is not None and low_precision_pays()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor) -> Tensor:
        x, W = x.detach().bfloat16(), W.detach().bfloat16()
        ctx.save_for_backward(x, W)
        return _mm(x, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W = ctx.saved_tensors
        grad = grad.bfloat16()
        return (
            _mm(grad, W.T) if ctx.needs_input_grad[0] else None,
            _mm(x.T, grad) if ctx.needs_input_grad[1] else None,
        )


def _mm(a: Tensor, b: Tensor) -> Tensor:
    out = torch.mm(a, b, out=recycled((a.shape[0], b.shape[1]), torch.bfloat16))
    return recycled(tuple(out.shape), torch.float32).copy_(out)
