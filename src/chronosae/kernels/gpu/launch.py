"""Starting kernels: on the device of their tensors, with blocks made from sizes rather than searched for."""

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl


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
