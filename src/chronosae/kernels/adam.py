"""AdamW over rows, with the projection, clipping and normalisation around it in the same pass over memory.

Shapes: R rows, C columns.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.kernels.compiled import bits, evenly, loops_for, parallel
from chronosae.kernels.gpu import gpu_kernels

# 32 bits.
_WORD = 0xFFFFFFFF


class Moments(NamedTuple):
    """What AdamW remembers of a parameter, in the parameter's shape and memory layout."""

    mean: Tensor
    square: Tensor


class Rates(NamedTuple):
    """AdamW's numbers at one step (`step` counts from 1)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int

    def numbers(self, dtype: np.dtype) -> tuple:
        """What a loop needs of them, in the precision of the weights."""
        first, second = 1 - self.beta1**self.step, 1 - self.beta2**self.step
        betas = self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2
        numbers = self.lr / first, *betas, second**-0.5, self.eps, 1 - self.lr * self.weight_decay
        return tuple(dtype.type(x) for x in numbers)


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
    gpu, loops = gpu_kernels(grad, weights), loops_for(grad, weights)
    if gpu is not None and weights.dtype == torch.float32:
        return gpu.gradient_energy(grad, weights, on_sphere)
    if loops is None:
        along = (grad * weights).sum(1) if on_sphere else grad.new_zeros(len(grad))
        return (grad - along.unsqueeze(1) * weights).square().sum(1), along
    energy, along = grad.new_empty(len(grad)), grad.new_empty(len(grad))
    out = energy.numpy(), along.numpy()
    before = grad.numpy(), weights.numpy(), on_sphere
    parallel(_bounds(grad), lambda a, b: loops.gradient_energy(*before, a, b, *out))
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
    gpu, loops = gpu_kernels(weights, grad, *moments), loops_for(weights, grad)
    if gpu is not None and weights.dtype == torch.float32:
        return gpu.adamw_(weights, grad, moments, along, rates, scale=scale, on_sphere=on_sphere)
    if loops is None:
        return adamw_dense_(weights, grad, moments, along, rates, scale=scale, on_sphere=on_sphere)
    kept = [bits(t) if t.dtype == torch.bfloat16 else t.numpy() for t in moments]
    arrays = weights.detach().numpy(), grad.detach().numpy(), *kept, along.numpy()
    numbers, factor = rates.numbers(arrays[0].dtype), arrays[0].dtype.type(float(scale))
    update = (*arrays, on_sphere, factor, numbers)
    if moments.mean.dtype == torch.bfloat16:
        parallel(_bounds(weights), lambda a, b: loops.adamw_rounded(*update, rates.step, a, b))
    else:
        parallel(_bounds(weights), lambda a, b: loops.adamw(*update, a, b))
    return None


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


def _bounds(rows: Tensor) -> list[int]:
    return evenly(len(rows), max(1, 2**16 // rows.shape[1]))
