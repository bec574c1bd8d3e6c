"""What the other kernels are made of: how one is started, what it computes in, and floats as ordered integers.

Blocks are made from sizes rather than searched for. Every function of a kernel carries `no_type_check`: the shape
checker that tests install would put a Python wrapper around it.
"""

from contextlib import nullcontext
from typing import Any, no_type_check

import torch
import triton
from torch import Tensor
from triton import language as tl

# Below every key.
LOWEST = tl.constexpr(-(2**31))
# Above every key but that of NaN, which it is.
HIGHEST = tl.constexpr(2**31 - 1)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, **constants: Any) -> None:
    """`kernel` on every point of the grid; an empty grid is no launch. The first argument is a tensor."""
    if 0 in grid:
        return
    device = args[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*args, num_warps=num_warps, **constants)


def power_of_two(n: int, least: int = 1, most: int = 2**20) -> int:
    """The smallest power of two from n on, within bounds that are powers of two."""
    return min(most, max(least, triton.next_power_of_2(n)))


def sum_type(*tensors: Tensor) -> Any:
    """What sums are made in: float64 if any tensor is, else float32."""
    return tl.float64 if any(t.dtype == torch.float64 for t in tensors) else tl.float32


def sum_dtype(*tensors: Tensor) -> torch.dtype:
    """The same, as torch calls it."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def low_dtype(*tensors: Tensor) -> torch.dtype | None:
    """The half-wide type of products: autocast's, or the tensors' own; None: full precision."""
    first = tensors[0]
    if first.dtype == torch.float64:
        return None
    if torch.is_autocast_enabled(first.device.type):
        return torch.get_autocast_dtype(first.device.type)
    return first.dtype if first.dtype in (torch.bfloat16, torch.float16) else None


def lowered(x: Tensor, low: torch.dtype | None) -> Tensor:
    """`x` in that type."""
    return x if low is None else x.to(low)


def without_autocast(device: torch.device) -> torch.autocast:
    """Inside, types are what they are."""
    return torch.autocast(device.type, enabled=False)


@triton.jit
@no_type_check
def ordered_key(values):
    """int32 in the order of float32; every NaN is the largest of all, minus zero comes just before zero."""
    bits = values.to(tl.int32, bitcast=True)
    return tl.where(values != values, HIGHEST, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
@no_type_check
def value_of(key):
    """The float32 that a key stands for."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def kth_largest(keys, k):
    """The largest key from 0 on that at least k of `keys` reach; 0 if fewer than k are positive. Bisection."""
    low = tl.zeros((), tl.int32)
    high = tl.maximum(tl.max(keys, 0), 0)
    while low < high:
        middle = low + ((high - low) >> 1) + ((high - low) & 1)
        enough = tl.sum((keys >= middle).to(tl.int32), 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low
