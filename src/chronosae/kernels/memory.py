"""Large tensors that come back: memory is kept when the last tensor in it is gone, and lent to the next of its size.

A step needs a few tensors of tens of megabytes, gradients among them. Fresh ones cost a page fault for every 4 kB: the
faults of a batch's pre-activations take longer than computing them.
"""

import math
import threading
import weakref
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

# Idle memory kept at most; what is idle longest goes first.
IDLE_LIMIT_BYTES = 2**29
# Smaller ones come out of the allocator's own lists.
LEAST_BYTES = 2**20
# A cache line. numpy's own blocks lie 16 bytes into one, where matrix products in bfloat16 take twice as long.
LINE = 64

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int16: np.int16}

_lock = threading.RLock()
_idle: OrderedDict[int, np.ndarray] = OrderedDict()


def recycled(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised CPU tensor, at the start of a cache line. No other shares its memory; it returns by itself."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return torch.empty(shape, dtype=dtype)
    block = _take(size)
    if block is None:
        block = _aligned(size)
    # numpy knows no bfloat16.
    known = _NUMPY.get(dtype)
    # The tensor's storage holds this view; with the storage goes the view, and the block is free again. The tensor must
    # not be a view itself, or autograd would not add to it in place.
    view = block[:] if known is None else block.view(known).reshape(shape)
    weakref.finalize(view, _give_back, block).atexit = False
    tensor = torch.from_numpy(view)
    return tensor if known is not None else tensor.view(dtype).view(shape)


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + LINE, np.uint8)
    skip = -raw.ctypes.data % LINE
    return raw[skip : skip + size]


def _take(size: int) -> np.ndarray | None:
    with _lock:
        for number, block in reversed(_idle.items()):
            if block.nbytes == size:
                return _idle.pop(number)
    return None


def _give_back(block: np.ndarray) -> None:
    with _lock:
        _idle[id(block)] = block
        while sum(b.nbytes for b in _idle.values()) > IDLE_LIMIT_BYTES:
            _idle.popitem(last=False)
