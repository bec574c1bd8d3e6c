"""Large tensors that come back: memory is kept when the last tensor in it is gone, and lent to the next of its size.

A step needs a few tensors of tens of megabytes, gradients among them. Fresh ones cost a page fault for every 4 kB: the
faults of a batch's pre-activations take longer than computing them. A tensor that finds nothing of its size takes
memory that is somewhat larger: what differs from step to step would else leave blocks behind that nothing fits.
"""

import math
import threading
import weakref
from collections import OrderedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Idle memory kept at most; what is idle longest goes first.
IDLE_LIMIT_BYTES = 2**29
# Smaller ones come out of the allocator's own lists.
LEAST_BYTES = 2**20
# A cache line. numpy's own blocks lie 16 bytes into one, where matrix products in bfloat16 take twice as long.
LINE = 64
# A tensor takes idle memory of up to so many times its size: more than what stands ready for it would be missing soon.
ROOMY = 2

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
    used = block[:size]
    view = used if known is None else used.view(known).reshape(shape)
    weakref.finalize(view, _give_back, block).atexit = False
    tensor = torch.from_numpy(view)
    return tensor if known is not None else tensor.view(dtype).view(shape)


@torch.no_grad()
def recycled_product(a: Float[Tensor, "n d"], b: Float[Tensor, "d m"], scale: float = 1.0) -> Float[Tensor, "n m"]:
    """`scale a b` on the CPU in such memory, without gradient."""
    out = recycled((a.shape[0], b.shape[1]), a.dtype)
    return torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + LINE, np.uint8)
    skip = -raw.ctypes.data % LINE
    return raw[skip : skip + size]


def _take(size: int) -> np.ndarray | None:
    with _lock:
        fit = [(block.nbytes, -i, number) for i, (number, block) in enumerate(_idle.items()) if block.nbytes >= size]
        # The smallest; of equal ones the latest, which may still be in cache.
        nbytes, _, number = min(fit, default=(math.inf, 0, 0))
        if nbytes <= ROOMY * size:
            return _idle.pop(number)
        # A block is made that serves for those a little smaller too.
        for number in [number for number, block in _idle.items() if block.nbytes < size <= ROOMY * block.nbytes]:
            _idle.pop(number)
    return None


def _give_back(block: np.ndarray) -> None:
    with _lock:
        _idle[id(block)] = block
        while sum(b.nbytes for b in _idle.values()) > IDLE_LIMIT_BYTES:
            _idle.popitem(last=False)
