"""Depthwise taps and their projection in bfloat16, in one autograd function: nothing between them is ever float32.

Shapes: N tokens, D channels, R dilations, J taps, L different lags, E rank of the projection.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import bits, evenly, parallel, sure_loops
from chronosae.kernels.memory import recycled
from chronosae.kernels.mixed import mixed_pays

# Entries up to which a factor is turned round in memory: a product with it is faster then.
SMALL = 2**18


class Taps(NamedTuple):
    """Which tokens the taps read: see `depthwise_taps`."""

    which: Int[Tensor, "r j"]
    lags: tuple[int, ...]
    sources: Int[Tensor, "l n"]


def mix_taps(
    x: Float[Tensor, "n d"],
    weights: Float[Tensor, "r j d"],
    project_in: Float[Tensor, "rd e"] | None,
    project_out: Float[Tensor, "e d"],
    taps: Taps,
) -> Float[Tensor, "n d"] | None:
    """`x + depthwise_taps(x) project_in project_out`, the products in bfloat16; gradients to x and all weights.

    Without `project_in`, `project_out` takes what the taps give. None outside `mixed_products`, or where they don't
    pay.
    """
    factors = (project_out,) if project_in is None else (project_in, project_out)
    if not mixed_pays(x, weights, *factors):
        return None
    return _Mix.apply(x.contiguous(), weights.contiguous(), taps, *factors)  # pyright: ignore[reportReturnType]


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, taps: Taps, *factors: Tensor) -> Tensor:
        ctx.taps = taps
        factors = tuple(f.detach().bfloat16() for f in factors)
        u = recycled((len(x), len(taps.which) * x.shape[1]), torch.bfloat16)
        read, loops, out = _arrays(x, weights, taps.which, taps.sources), sure_loops(x), bits(u)
        parallel(evenly(len(x), 16), lambda a, b: loops.taps_rounded(*read, a, b, out))
        steps = [u]
        for factor in factors:
            steps.append(_product(steps[-1], factor))
        ctx.save_for_backward(x, weights, *factors, *steps[:-1])
        mixed = recycled(tuple(x.shape), x.dtype)
        added = *_arrays(x), bits(steps[-1])
        parallel(evenly(len(x), 64), lambda a, b: loops.add_rounded(*added, a, b, mixed.numpy()))
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weights, *rest = ctx.saved_tensors
        factors, steps = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        grad, loops, taps, slopes = grad.contiguous(), sure_loops(x), ctx.taps, []
        slope = recycled(tuple(grad.shape), torch.bfloat16).copy_(grad)
        for factor, step in zip(reversed(factors), reversed(steps), strict=True):
            slopes.insert(0, _weight_gradient(loops, step, slope))
            slope = _product(slope, factor.T.contiguous() if factor.numel() < SMALL else factor.T)
        grad_x, grad_weights = None, torch.empty_like(weights)
        which, sources = _arrays(taps.which, taps.sources)
        if ctx.needs_input_grad[0]:
            grad_x = recycled(tuple(x.shape), x.dtype)
            lags = torch.tensor(taps.lags, dtype=torch.int64).numpy()
            before, out = (grad.numpy(), bits(slope), *_arrays(weights), which, sources, lags), grad_x.numpy()
            parallel(evenly(len(x), 16), lambda a, b: loops.taps_input_gradient(*before, a, b, out))
        read = bits(slope), *_arrays(x), which, sources
        parallel(evenly(x.shape[1], 64), lambda a, b: loops.taps_weight_gradient(*read, a, b, grad_weights.numpy()))
        return grad_x, grad_weights, None, *slopes


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out=recycled((a.shape[0], b.shape[1]), torch.bfloat16))


def _weight_gradient(loops: SimpleNamespace, x: Tensor, grad: Tensor) -> Tensor:
    """`x^T grad` in float32. A product is fastest with what it sums over side by side in its first factor."""
    out = recycled((x.shape[1], grad.shape[1]), torch.float32)
    if grad.shape[1] > x.shape[1]:
        return out.copy_(_product(x.T, grad))
    turned = recycled((grad.shape[1], len(grad)), torch.bfloat16)
    parallel(evenly(len(grad), 64), lambda a, b: loops.turned(bits(grad), a, b, bits(turned)))
    found = _product(turned, x)
    parallel(evenly(len(out), 64), lambda a, b: loops.turned_wide(bits(found), a, b, out.numpy()))
    return out


def _arrays(*tensors: Tensor) -> list[Any]:
    return [t.detach().numpy() for t in tensors]
