"""Who does the work: plain torch, loops compiled by numba, or Triton; on how many threads, and in which memory.

Compilers are loaded when first needed, and nothing breaks where they are missing. A function that is asked for checks
here once, and calls `loops.<module>.<loop>` or `gpu.<module>.<function>`, or its dense reference.

Large tensors come back: memory is kept when the last tensor in it is gone, and lent to the next of its size. A step
needs a few tensors of tens of megabytes, gradients among them, and fresh ones cost a page fault for every 4 kB: the
faults of a batch's pre-activations take longer than computing them. A tensor that finds nothing of its size takes
memory that is somewhat larger: what differs from step to step would else leave blocks behind that nothing fits.

Last come the operations that need no more than such memory for their result or their gradient.

Shapes: N tokens, F d_sae, D d_in, M rows, P rows of position weights.
"""

import math
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import gpu, loops

FLOATS = torch.float32, torch.float64, torch.bfloat16, torch.float16

# Set by `dense_only`.
_off = 0


@contextmanager
def dense_only() -> Iterator[None]:
    """Inside, every kernel is its torch reference."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def compiled_kernels(*tensors: Tensor) -> bool:
    """Whether kernels on these tensors are compiled loops: on the CPU, of one float type, and there is a compiler.

    `CHRONOSAE_KERNELS=torch` in the environment switches them off.
    """
    first = tensors[0]
    if _off or first.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return False
    if any(t.device.type != "cpu" or t.dtype != first.dtype for t in tensors):
        return False
    return loops.load()


def triton_kernels(*tensors: Tensor) -> bool:
    """Whether kernels on these tensors are Triton's: on one CUDA device, of float types, and Triton is there.

    On a GPU they are used where `CHRONOSAE_KERNELS=triton` in the environment asks for them: nobody has seen them run
    on one yet. With `TRITON_INTERPRET=1` tensors on the CPU pass too: Triton's interpreter then runs the kernels,
    slowly, which is how they are tested without a GPU. `dense_only` and `CHRONOSAE_KERNELS=torch` switch them off.
    """
    first = tensors[0]
    if _off or torch.compiler.is_compiling():
        return False
    asked = {"cuda": os.environ.get("CHRONOSAE_KERNELS") == "triton", "cpu": interpreted()}
    if not asked.get(first.device.type, False):
        return False
    if any(t.device != first.device or t.dtype not in FLOATS for t in tensors):
        return False
    return gpu.load()


def fused_kernels(*tensors: Tensor) -> bool:
    """Whether kernels on these tensors are compiled loops or Triton's, rather than torch."""
    return triton_kernels(*tensors) or compiled_kernels(*tensors)


def interpreted() -> bool:
    """Whether Triton's interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def parallel(bounds: Sequence[int], work: Callable[[int, int], Any]) -> None:
    """`work(first, last)` between all neighbours in `bounds`, on torch's number of threads, the caller's among them.

    Threads of our own: numba's may not be entered from two Python threads at once, and torch's can't be borrowed.
    """
    parts = deque(pairwise(bounds))
    helpers = min(torch.get_num_threads(), len(parts)) - 1
    gradients = torch.is_grad_enabled()

    def share() -> None:
        # A thread begins with gradients on, and `numpy()` of a weight then fails, whatever its caller had switched off.
        with torch.set_grad_enabled(gradients):
            while parts:
                try:
                    first, last = parts.popleft()
                except IndexError:  # another thread was faster
                    return
                work(first, last)

    futures = [_pool(helpers, os.getpid()).submit(share) for _ in range(helpers)]
    try:
        share()
    finally:
        # Waiting for all, so that an error in one part doesn't leave others writing.
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def evenly(n: int, least: int = 1) -> list[int]:
    """Bounds that cut n into parts of at least `least`, a few for each thread."""
    parts = max(1, min(4 * torch.get_num_threads(), n // least))
    return [n * i // parts for i in range(parts + 1)]


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # By process: a fork inherits the object, but not its threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="chronosae")


def bits(tensor: Tensor) -> np.ndarray:
    """A bfloat16 tensor as loops take it: numpy doesn't know the type."""
    return tensor.view(torch.int16).numpy().view("uint16")


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


@torch.no_grad()
def recycled_product(a: Float[Tensor, "n d"], b: Float[Tensor, "d m"], scale: float = 1.0) -> Float[Tensor, "n m"]:
    """`scale a b` on the CPU in such memory, without gradient."""
    out = recycled((a.shape[0], b.shape[1]), a.dtype)
    return torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


def some_rows(W: Float[Tensor, "f d"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
    """`W[rows]`, rows ascending. The gradient to weights on the CPU (to a leaf of the graph) is sparse.

    Whoever uses all of W, earlier in the forward pass, has it added to its own gradient in place: a dense one, as large
    as W and mostly zero, would cost more time and memory than all else here.
    """
    if not _on_cpu(W) or not W.is_leaf:
        return W.index_select(0, rows)
    return _SomeRows.apply(W, rows)  # pyright: ignore[reportReturnType]


class _SomeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = tuple(W.shape)
        return gathered(W.detach(), rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        sparse = torch.sparse_coo_tensor(rows.unsqueeze(0), grad, ctx.shape, is_coalesced=True, check_invariants=False)
        return sparse, None


@torch.no_grad()
def gathered(W: Float[Tensor, "f d"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
    """`W[rows]` of weights on the CPU, without gradient, in memory that is used again."""
    return torch.index_select(W, 0, rows, out=recycled((len(rows), W.shape[1]), W.dtype))


def some_entries(W: Float[Tensor, "p f"], rows: Int[Tensor, "*#n"], columns: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """`W[rows, columns]`, which may repeat. On the CPU, the memory of its gradient, as large as W, is used again."""
    if not _on_cpu(W):
        return W[rows, columns]
    return _SomeEntries.apply(W, (rows * W.shape[1] + columns).flatten()).view(columns.shape)  # pyright: ignore


class _SomeEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = tuple(W.shape)
        return W.reshape(-1).index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        out = recycled(ctx.shape, grad.dtype).zero_()
        out.view(-1).index_add_(0, places, grad)
        return out, None


@torch.no_grad()
def sigmoid(logits: Float[Tensor, "p f"]) -> Float[Tensor, "p f"]:
    """Without gradient; on the CPU, in memory that is used again."""
    return (
        torch.sigmoid(logits, out=recycled(tuple(logits.shape), logits.dtype)) if _on_cpu(logits) else logits.sigmoid()
    )


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
