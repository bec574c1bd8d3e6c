"""One pass over memory where torch would make several: centred inputs, normal noise, squared errors, and AdamW.

Shapes: N tokens, D d_in, B sequences.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import gpu, loops
from chronosae.kernels.dispatch import bits, compiled_kernels, evenly, fused_kernels, parallel, recycled, triton_kernels
from chronosae.kernels.reference import Moments, Rates, squared_error_dense

_STEP, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def centred_rows(
    x: Float[Tensor, "n d"], centre: Float[Tensor, " d"], active: Bool[Tensor, " n"] | None
) -> Float[Tensor, "n d"]:
    """`x - centre`, zero for tokens that aren't active whatever they hold. No gradient."""
    x, centre = x.detach(), centre.detach()
    out = recycled(tuple(x.shape), x.dtype) if compiled_kernels(x, centre) else None
    out = torch.sub(x, centre, out=out)
    return out if active is None else out.masked_fill_(~active.unsqueeze(-1), 0)


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


def add_normal(x: Float[Tensor, "n d"], level: float, keys: list[int]) -> Float[Tensor, "n d"]:
    """`x + level * noise`, the noise of standard deviation 1 and precise to float32; gradient to x.

    The tokens belong to `len(keys)` sequences of one length. The noise depends on the sequence's key (64 bits), the
    token's place in the sequence and the channel alone.
    """
    if not compiled_kernels(x):
        return add_normal_dense(x, level, keys)
    return _AddNormal.apply(x, level, keys)  # pyright: ignore[reportReturnType]


class _AddNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, level: float, keys: list[int]) -> Tensor:
        x, out = x.detach().contiguous(), recycled(tuple(x.shape), x.dtype)
        before = x.numpy(), np.array([key % 2**64 for key in keys], np.uint64), np.float32(level)
        parallel(evenly(len(x), 16), lambda a, b: loops.elementwise.add_normal(*before, a, b, out.numpy()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None, None


def add_normal_dense(x: Float[Tensor, "n d"], level: float, keys: list[int]) -> Float[Tensor, "n d"]:
    """The reference of `add_normal`: SplitMix64 on counters, Box and Muller's transform."""
    rows, half = len(x) // max(len(keys), 1), (x.shape[1] + 1) // 2
    start = _scrambled(torch.tensor([(key + 2**63) % 2**64 - 2**63 for key in keys], dtype=torch.int64))
    counters = start.unsqueeze(1) + (torch.arange(rows * half) + 1) * _STEP
    z = _scrambled(counters.view(len(x), half))
    share = (_shifted(z, 32) + 0.5).double() / 2**32
    low = z & 0xFFFFFFFF
    turn = torch.where(low < 2**31, low, low - 2**32).double() / 2**31 * torch.pi
    radius = (-2 * share.log()).sqrt()
    noise = torch.cat([radius * turn.cos(), radius * turn.sin()], 1)[:, : x.shape[1]]
    return x + (level * noise).to(x)


def _scrambled(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """To the right, zeros from the left."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def squared_error(
    target: Float[Tensor, "*tokens d"], estimate: Float[Tensor, "*tokens d"], active: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """`sum_t ||target_t - estimate_t||^2` over active tokens; the others don't matter. Gradients to both."""
    if not fused_kernels(target, estimate):
        return squared_error_dense(target, estimate, active)
    flat = target.reshape(-1, target.shape[-1]).contiguous(), estimate.reshape(-1, target.shape[-1]).contiguous()
    tokens = *flat, active.reshape(-1).contiguous()
    if triton_kernels(target, estimate):
        return gpu.elementwise.squared_error(*tokens)
    return _SquaredError.apply(*tokens)  # pyright: ignore[reportReturnType]


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, estimate: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(target, estimate, active)
        energy = target.new_empty(len(target))
        before = [t.detach().numpy() for t in (target, estimate, active)]
        parallel(
            evenly(len(target), 64), lambda a, b: loops.elementwise.squared_distance(*before, a, b, energy.numpy())
        )
        return energy.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        target, estimate, active = ctx.saved_tensors
        out = recycled(tuple(target.shape), target.dtype)
        before = [t.detach().numpy() for t in (target, estimate, active)]
        scale = before[0].dtype.type(2 * float(grad))
        parallel(
            evenly(len(out), 64), lambda a, b: loops.elementwise.scaled_difference(*before, scale, a, b, out.numpy())
        )
        return (-out if ctx.needs_input_grad[0] else None), out, None


# 32 bits.
_WORD = 0xFFFFFFFF


def as_rows(weights: Tensor) -> Tensor | None:
    """The tensor as rows in the order of its memory, sharing it; None if neither it nor its transpose is contiguous."""
    if weights.is_contiguous():
        return weights.view(-1, weights.shape[-1]) if weights.dim() else weights.view(1, 1)
    return weights.T if weights.dim() == 2 and weights.T.is_contiguous() else None


def gradient_energy(
    grad: Float[Tensor, "r c"], weights: Float[Tensor, "r c"], on_sphere: bool
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Squared norm of each row of the gradient, and the row's inner product with the weights.

    On the sphere only what is at right angles to the (unit) row counts; off it, the second is zero.
    """
    if weights.dtype == torch.float32 and triton_kernels(grad, weights):
        return gpu.adam.gradient_energy(grad, weights, on_sphere)
    if not compiled_kernels(grad, weights):
        along = (grad * weights).sum(1) if on_sphere else grad.new_zeros(len(grad))
        return (grad - along.unsqueeze(1) * weights).square().sum(1), along
    energy, along = grad.new_empty(len(grad)), grad.new_empty(len(grad))
    out = energy.numpy(), along.numpy()
    before = grad.numpy(), weights.numpy(), on_sphere
    parallel(_bounds(grad), lambda a, b: loops.elementwise.gradient_energy(*before, a, b, *out))
    return energy, along


@torch.no_grad()
def adamw_(
    weights: Float[Tensor, "r c"],
    grad: Float[Tensor, "r c"],
    moments: Moments,
    along: Float[Tensor, " r"],
    rates: Rates,
    *,
    scale: float | Float[Tensor, ""] = 1.0,
    on_sphere: bool = False,
) -> None:
    """One step on the gradient `scale * (grad - along weights)`, in place; on the sphere, rows end with norm 1.

    Decoupled weight decay and bias correction as in torch's AdamW. On a GPU a `scale` that is there already spares the
    wait for it. Moments may be bfloat16 beside float32 weights: they are then rounded up or down at random, in
    proportion; the same step rounds the same way whenever it is made.
    """
    if weights.dtype == torch.float32 and triton_kernels(weights, grad, *moments):
        return gpu.adam.adamw_(weights, grad, moments, along, rates, scale=scale, on_sphere=on_sphere)
    if not compiled_kernels(weights, grad):
        return adamw_dense_(weights, grad, moments, along, rates, scale=scale, on_sphere=on_sphere)
    kept = [bits(t) if t.dtype == torch.bfloat16 else t.numpy() for t in moments]
    arrays = weights.detach().numpy(), grad.detach().numpy(), *kept, along.numpy()
    numbers, factor = _numbers(rates, arrays[0].dtype), arrays[0].dtype.type(float(scale))
    update = (*arrays, on_sphere, factor, numbers)
    if moments.mean.dtype == torch.bfloat16:
        parallel(_bounds(weights), lambda a, b: loops.elementwise.adamw_rounded(*update, rates.step, a, b))
    else:
        parallel(_bounds(weights), lambda a, b: loops.elementwise.adamw(*update, a, b))
    return None


def _numbers(rates: Rates, dtype: np.dtype) -> tuple:
    """What a loop needs of them, in the precision of the weights."""
    first, second = 1 - rates.beta1**rates.step, 1 - rates.beta2**rates.step
    betas = rates.beta1, 1 - rates.beta1, rates.beta2, 1 - rates.beta2
    numbers = rates.lr / first, *betas, second**-0.5, rates.eps, 1 - rates.lr * rates.weight_decay
    return tuple(dtype.type(x) for x in numbers)


def _bounds(rows: Tensor) -> list[int]:
    return evenly(len(rows), max(1, 2**16 // rows.shape[1]))


@torch.no_grad()
def adamw_dense_(
    weights: Float[Tensor, "r c"],
    grad: Float[Tensor, "r c"],
    moments: Moments,
    along: Float[Tensor, " r"],
    rates: Rates,
    *,
    scale: float | Float[Tensor, ""] = 1.0,
    on_sphere: bool = False,
) -> None:
    """The reference of `adamw_`, an operation at a time."""
    slope = scale * (grad - along.unsqueeze(1) * weights)
    mean = moments.mean.to(slope.dtype).lerp(slope, 1 - rates.beta1)
    square = moments.square.to(slope.dtype).mul(rates.beta2).addcmul_(slope, slope, value=1 - rates.beta2)
    _keep(moments, mean, square, rates.step)
    first, second = 1 - rates.beta1**rates.step, 1 - rates.beta2**rates.step
    weights.mul_(1 - rates.lr * rates.weight_decay)
    weights.addcdiv_(mean, (square / second).sqrt_().add_(rates.eps), value=-rates.lr / first)
    if on_sphere:
        weights.div_(weights.norm(dim=1, keepdim=True).clamp_min(1e-12))


def _keep(moments: Moments, mean: Tensor, square: Tensor, step: int) -> None:
    """Into the moments' own precision: bfloat16 by adding 16 random bits below those that stay."""
    if moments.mean.dtype != torch.bfloat16:
        moments.mean.copy_(mean)
        moments.square.copy_(square)
        return
    place = torch.arange(mean.numel(), device=mean.device).view(mean.shape)
    bits = (place * 0x9E3779B1 & _WORD) ^ (step * 0x85EBCA6B & _WORD)
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B & _WORD
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35 & _WORD
    bits ^= bits >> 16
    for kept, value, noise in ((moments.mean, mean, bits & 0xFFFF), (moments.square, square, bits >> 16)):
        moved = (value.view(torch.int32) + noise.int()) & -0x10000
        kept.copy_(torch.where(torch.isfinite(value), moved.view(torch.float32), value))
