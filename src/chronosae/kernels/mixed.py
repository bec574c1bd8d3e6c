"""Products in bfloat16 where training can bear them: sums in float32, results and operands rounded to 8 bits.

Relative to the norms of the operands, a result is off by at most 2^-7 (2^-9 for each operand and the result, and their
products); measured, about 2^-8. Of `D^T D` with unit rows, energy and gradient are off by 0.1 % and 1 % at most.

Shapes: N tokens, F rows, D, E widths.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import loops
from chronosae.kernels.dispatch import bits, compiled_kernels, evenly, parallel, recycled
from chronosae.kernels.reference import LEAST_TOKENS, low_precision_pays
from chronosae.kernels.slots import Pull, combine, decode_gradients

_allowed: ContextVar[bool] = ContextVar("mixed_products", default=False)
# Rows whose squares are added up in float32: as many whatever the number of threads, and so the sums are too.
PART = 1024
# Columns of the Gram matrix made at once, from the diagonal on: half of the matrix is spared in the end, and a product
# stays large enough to be fast.
PANEL = 256


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
    return single and compiled_kernels(*tensors) and low_precision_pays()


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


class UnitGram(NamedTuple):
    """Rows brought to norm 1 in bfloat16, their norms, and `D^T D` without the mean of its diagonal.

    What is left out pulls along each row, where a unit row can't move; left in, it would be most of what is rounded.
    """

    rows: Float[Tensor, "f d"]
    norms: Float[Tensor, " f"]
    gram: Float[Tensor, "d d"]

    def pull(self, grad: Float[Tensor, ""]) -> Pull:
        """For a gradient `grad` of the energy."""
        out = torch.mm(self.rows, self.gram, out=recycled(tuple(self.rows.shape), torch.bfloat16))
        return Pull(self.norms, out, 4 * float(grad))


def unit_gram(W: Float[Tensor, "f d"]) -> tuple[UnitGram, Float[Tensor, ""]]:
    """The Gram matrix of W's rows brought to norm 1, and `||D^T D||_F^2`; no gradient, float32 on the CPU."""
    W = W.detach().contiguous()
    rows, norms = recycled(tuple(W.shape), torch.bfloat16), W.new_empty(len(W))
    width, bounds = W.shape[1], [*range(0, len(W), PART), len(W)]
    squares = W.new_empty(len(bounds) - 1, width)
    out = bits(rows), norms.numpy()
    parallel(bounds, lambda a, b: loops.mixing.unit_rows(W.numpy(), a, b, *out, squares[a // PART].numpy()))
    gram = torch.empty(width, width, dtype=torch.bfloat16)
    for first in range(0, width, PANEL):
        columns = slice(first, first + PANEL)
        gram[columns, first:] = torch.mm(rows[:, columns].T, rows[:, first:])
    energy = loops.mixing.mirror(bits(gram), squares.double().sum(0).numpy())
    return UnitGram(rows, norms, gram), torch.tensor(energy, dtype=W.dtype)


def unit_gram_energy(W: Float[Tensor, "f d"]) -> Float[Tensor, ""] | None:
    """`||D^T D||_F^2`, D the rows of W brought to norm 1, from products in bfloat16; gradient once.

    None where float32 is as fast.
    """
    return _UnitGramEnergy.apply(W) if pays(W) else None  # pyright: ignore[reportReturnType]


class _UnitGramEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W: Tensor) -> Tensor:
        found, energy = unit_gram(W)
        ctx.save_for_backward(W, *found)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        W, *found = ctx.saved_tensors
        W, out, pull = W.contiguous(), recycled(tuple(W.shape), W.dtype), UnitGram(*found).pull(grad).arrays()
        parallel(evenly(len(W), 64), lambda a, b: loops.mixing.tangent_rows(W.numpy(), *pull, a, b, out.numpy()))
        return out


def decode_with_energy(
    indices: Int[Tensor, "*tokens slots"],
    values: Float[Tensor, "*tokens slots"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " d"],
) -> tuple[Float[Tensor, "*tokens d"], Float[Tensor, ""]] | None:
    """`sparse_decode` and `unit_gram_energy` of one weight, whose gradient is then written once instead of three times.

    None where `unit_gram_energy` is, and for codes of another dtype.
    """
    if not pays(W, values, bias):
        return None
    slots = indices.shape[-1]
    flat = indices.reshape(-1, slots).contiguous(), values.reshape(-1, slots).contiguous()
    recon, energy = _DecodeWithEnergy.apply(*flat, W.contiguous(), bias)  # pyright: ignore[reportGeneralTypeIssues]
    return recon.view(*indices.shape[:-1], W.shape[1]), energy


class _DecodeWithEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, W: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        found, energy = unit_gram(W)
        ctx.save_for_backward(indices, values, W, *found)
        return combine(indices, values.detach(), W.detach(), bias.detach()), energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_energy: Tensor | None) -> tuple[None, Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        indices, values, W, *found = ctx.saved_tensors
        slopes = W.new_zeros(len(indices), W.shape[1]) if grad is None else grad.contiguous()
        pull = None if grad_energy is None else UnitGram(*found).pull(grad_energy)
        return None, *decode_gradients(indices, values.detach(), W.detach(), slopes, pull), slopes.sum(0)
