"""The gate to the compiled loops: the compiler is loaded when first needed, and nothing breaks where it is missing."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Modules of compiled loops, whose names are told apart.
LOOPS = (
    "bits",
    "context",
    "context_gradients",
    "counting",
    "dense",
    "history",
    "mixing",
    "moments",
    "noise",
    "prediction",
    "rank",
    "select",
    "sparse",
    "threshold",
    "triples",
    "update",
    "windows",
)

# Set by `dense_only`.
_off = 0


def loops_for(*tensors: Tensor) -> SimpleNamespace | None:
    """The compiled loops, if they can work on these tensors: on the CPU, of one float type. None: use torch.

    `CHRONOSAE_KERNELS=torch` in the environment switches them off.
    """
    first = tensors[0]
    if _off or first.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return None
    if any(t.device.type != "cpu" or t.dtype != first.dtype for t in tensors):
        return None
    return _load()


def sure_loops(*tensors: Tensor) -> SimpleNamespace:
    """The same behind a function that has asked already: they are there."""
    loops = loops_for(*tensors)
    assert loops is not None
    return loops


def bits(tensor: Tensor) -> np.ndarray:
    """A bfloat16 tensor as loops take it: numpy doesn't know the type."""
    return tensor.view(torch.int16).numpy().view("uint16")


def compiled_kernels(*tensors: Tensor) -> bool:
    """Whether kernels on these tensors are compiled loops rather than torch."""
    return loops_for(*tensors) is not None


@contextmanager
def dense_only() -> Iterator[None]:
    """Inside, every kernel is its torch reference."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


@cache
def _load() -> SimpleNamespace | None:
    if os.environ.get("CHRONOSAE_KERNELS") == "torch":
        return None
    try:
        from numba.core import config as module

        config: Any = module
        before = config.CACHE_DIR
        # The package's own folder may be read-only, or shared by machines of several kinds.
        config.CACHE_DIR = before or str(_cache_folder())
        try:
            modules = [import_module(f"chronosae.kernels.loops.{name}") for name in LOOPS]
        finally:
            config.CACHE_DIR = before
        found = SimpleNamespace(**{name: loop for module in modules for name, loop in vars(module).items()})
        one = torch.ones(2).numpy()
        assert found.dot(one, one) == 2
        return found
    except ImportError:
        return None
    except Exception as error:
        warnings.warn(
            f"compiled kernels are not available ({type(error).__name__}: {error}); using torch", stacklevel=2
        )
        return None


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "chronosae" / "numba"


def parallel(bounds: Sequence[int], work: Callable[[int, int], Any]) -> None:
    """`work(first, last)` between all neighbours in `bounds`, on torch's number of threads, the caller's among them.

    Threads of our own: numba's may not be entered from two Python threads at once, and torch's can't be borrowed.
    """
    parts = deque(pairwise(bounds))
    helpers = min(torch.get_num_threads(), len(parts)) - 1

    def share() -> None:
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
