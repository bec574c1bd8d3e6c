"""AdamW over rows, with the projection, clipping and normalisation around it in the same pass over memory.

Shapes: R rows, C columns.
"""

from typing import no_type_check

import torch
import triton
from jaxtyping import Float
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.base import launch, power_of_two
from chronosae.kernels.reference import Moments, Rates

MOST = 2048


def gradient_energy(
    grad: Float[Tensor, "r c"], weights: Float[Tensor, "r c"], on_sphere: bool
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """As `kernels.gradient_energy`, in float32."""
    r, width = grad.shape
    energy, along = (torch.empty(r, dtype=torch.float32, device=grad.device) for _ in range(2))
    constants = {"ON_SPHERE": on_sphere, "BLOCK": power_of_two(width, 16, MOST)}
    launch(_energy, (r,), grad, weights, energy, along, width, **constants)
    return energy, along


def adamw_(
    weights: Float[Tensor, "r c"],
    grad: Float[Tensor, "r c"],
    moments: Moments,
    along: Float[Tensor, " r"],
    rates: Rates,
    *,
    scale: float | Tensor = 1.0,
    on_sphere: bool = False,
) -> None:
    """As `kernels.adamw_`, in float32, in place.

    Moments may be bfloat16. They are then rounded up or down at random, in proportion: to nearest, a mean of squares
    that moves by a thousandth a step would never move. The same step rounds the same way whenever it is made.

    Args:
        scale: a number, or a tensor of one on the device, which nothing then waits for.
    """
    r, width = weights.shape
    first, second = 1 - rates.beta1**rates.step, 1 - rates.beta2**rates.step
    betas = rates.beta1, 1 - rates.beta1, rates.beta2, 1 - rates.beta2
    numbers = rates.lr / first, *betas, second**0.5, rates.eps, 1 - rates.lr * rates.weight_decay
    if not isinstance(scale, Tensor):
        scale = torch.full((), scale, dtype=torch.float32, device=weights.device)
    arguments = weights, grad, *moments, along, scale, *numbers, rates.step, width
    constants = {"ON_SPHERE": on_sphere, "BLOCK": power_of_two(width, 16, MOST)}
    launch(_adamw, (r,), *arguments, **constants)


@triton.jit
@no_type_check
def _energy(grad, weights, energy, along, width, ON_SPHERE: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    square = tl.zeros([BLOCK], tl.float32)
    product, norm = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        g = tl.load(grad + r * width + i, mask=i < width, other=0).to(tl.float32)
        square += g * g
        if ON_SPHERE:
            w = tl.load(weights + r * width + i, mask=i < width, other=0).to(tl.float32)
            product += g * w
            norm += w * w
    total, a = tl.sum(square, 0), tl.sum(product, 0)
    if ON_SPHERE:
        rest = total - a * a * (2 - tl.sum(norm, 0))
        # Below zero by rounding alone; a NaN stays.
        total = tl.where(rest < 0, 0.0, rest)
    tl.store(energy + r, total)
    tl.store(along + r, a)


@triton.jit
@no_type_check
def _noise(place, step):
    """32 bits that look random, a function of the place and the step (the mixing of MurmurHash3)."""
    bits = (place.to(tl.uint32) * 0x9E3779B1) ^ (step.to(tl.uint32) * 0x85EBCA6B)
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35
    return bits ^ (bits >> 16)


@triton.jit
@no_type_check
def _rounded(value, noise, dtype: tl.constexpr):
    """`value` in the type moments are kept in; bfloat16 by adding 16 random bits below those that stay."""
    if dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        moved = ((bits + (noise & 0xFFFF)) & 0xFFFF0000).to(tl.float32, bitcast=True)
        # Infinities and NaN as they are.
        finite = (bits & 0x7F800000) != 0x7F800000
        return tl.where(finite, moved, value).to(tl.bfloat16)
    return value.to(dtype)


@triton.jit(do_not_specialize=["step"])
@no_type_check
def _adamw(
    weights,
    grad,
    mean,
    square,
    along,
    scale,
    rate,
    beta1,
    rest1,
    beta2,
    rest2,
    correction,
    eps,
    keep,
    step,
    width,
    ON_SPHERE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64)
    a, factor = tl.load(along + r).to(tl.float32), tl.load(scale).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        place, inside = r * width + i, i < width
        w = tl.load(weights + place, mask=inside, other=0).to(tl.float32)
        slope = factor * (tl.load(grad + place, mask=inside, other=0).to(tl.float32) - a * w)
        m = beta1 * tl.load(mean + place, mask=inside, other=0).to(tl.float32) + rest1 * slope
        v = beta2 * tl.load(square + place, mask=inside, other=0).to(tl.float32) + rest2 * slope * slope
        noise = _noise(place, step)
        tl.store(mean + place, _rounded(m, noise, mean.dtype.element_ty), mask=inside)
        tl.store(square + place, _rounded(v, noise >> 16, square.dtype.element_ty), mask=inside)
        w = keep * w - rate * m / (tl.sqrt(v) / correction + eps)
        tl.store(weights + place, w.to(weights.dtype.element_ty), mask=inside)
        total += w * w
    if ON_SPHERE:
        norm = tl.maximum(tl.sqrt(tl.sum(total, 0)), 1e-12)
        # What another thread of this program wrote above is read below.
        tl.debug_barrier()
        for start in range(0, width, BLOCK):
            i = start + tl.arange(0, BLOCK)
            w = tl.load(weights + r * width + i, mask=i < width, other=0).to(tl.float32)
            tl.store(weights + r * width + i, (w / norm).to(weights.dtype.element_ty), mask=i < width)
