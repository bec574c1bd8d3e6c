"""Inputs plus normal noise: on the CPU the same noise with and without compiled loops, on any number of threads.

Shapes: B sequences, N tokens in all, D channels.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels.compiled import evenly, loops_for, parallel, sure_loops
from chronosae.kernels.memory import recycled

_STEP, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def add_normal(x: Float[Tensor, "n d"], level: float, keys: list[int]) -> Float[Tensor, "n d"]:
    """`x + level * noise`, the noise of standard deviation 1 and precise to float32; gradient to x.

    The tokens belong to `len(keys)` sequences of one length. The noise depends on the sequence's key (64 bits), the
    token's place in the sequence and the channel alone.
    """
    if loops_for(x) is None:
        return add_normal_dense(x, level, keys)
    return _AddNormal.apply(x, level, keys)  # pyright: ignore[reportReturnType]


class _AddNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, level: float, keys: list[int]) -> Tensor:
        loops, x, out = sure_loops(x), x.detach().contiguous(), recycled(tuple(x.shape), x.dtype)
        before = x.numpy(), np.array([key % 2**64 for key in keys], np.uint64), np.float32(level)
        parallel(evenly(len(x), 16), lambda a, b: loops.add_normal(*before, a, b, out.numpy()))
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
