"""The sparse step on a GPU, in Triton, which is loaded by `load` alone: nothing waits for it before it is needed.

Same signatures and the same rules as the CPU's loops: slots ascending after the unused ones (0, 0), of equal entries
the first, NaN as the largest, gradients to chosen entries alone. Nothing of size tokens x slots x d_in is ever made.
"""

import os
import warnings
from functools import cache
from importlib import import_module
from typing import Any

# Attributes here once `load` has returned True.
MODULES = ("adam", "elementwise", "encode", "select", "slots")


@cache
def load() -> bool:
    """Import every module of kernels; False, with a warning unless Triton is missing, where they can't be had."""
    if os.environ.get("CHRONOSAE_KERNELS") == "torch":
        return False
    try:
        for name in MODULES:
            import_module(f"{__name__}.{name}")
    except ImportError:
        return False
    except Exception as error:
        warnings.warn(f"GPU kernels are not available ({type(error).__name__}: {error}); using torch", stacklevel=2)
        return False
    return True


def __getattr__(name: str) -> Any:
    """What isn't an attribute yet."""
    raise AttributeError(f"gpu.{name} is not loaded: ask `dispatch.triton_kernels` whether it may be used")
