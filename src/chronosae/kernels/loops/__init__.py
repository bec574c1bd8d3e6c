"""Loops compiled by numba. `load` alone imports them: nothing waits for the compiler before it is needed."""

import os
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

# Attributes here once `load` has returned True.
MODULES = (
    "bits",
    "context",
    "counting",
    "elementwise",
    "mixing",
    "prediction",
    "select",
    "sparse",
    "triples",
    "windows",
)


@cache
def load() -> bool:
    """Import every module of loops; False, with a warning unless numba is missing, where they can't be had."""
    if os.environ.get("CHRONOSAE_KERNELS") == "torch":
        return False
    try:
        from numba.core import config as module

        config: Any = module
        before = config.CACHE_DIR
        # The package's own folder may be read-only, or shared by machines of several kinds.
        config.CACHE_DIR = before or str(_cache_folder())
        try:
            found = {name: import_module(f"{__name__}.{name}") for name in MODULES}
        finally:
            config.CACHE_DIR = before
        one = np.ones(2, np.float32)
        assert found["bits"].dot(one, one) == 2
    except ImportError:
        return False
    except Exception as error:
        warnings.warn(
            f"compiled kernels are not available ({type(error).__name__}: {error}); using torch", stacklevel=2
        )
        return False
    return True


def __getattr__(name: str) -> Any:
    """What isn't an attribute yet."""
    raise AttributeError(f"loops.{name} is not loaded: ask `dispatch.compiled_kernels` whether it may be used")


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "chronosae" / "numba"
