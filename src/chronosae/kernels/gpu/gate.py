"""The gate to the Triton kernels: Triton is loaded when first needed, and nothing breaks where it is missing."""

import os
import warnings
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor

from chronosae.kernels import compiled

FLOATS = torch.float32, torch.float64, torch.bfloat16, torch.float16


def gpu_kernels(*tensors: Tensor) -> SimpleNamespace | None:
    """The Triton kernels, if they can work on these tensors: on one CUDA device, of float types. None: use torch.

    On a GPU they are used where `CHRONOSAE_KERNELS=triton` in the environment asks for them: nobody has seen them run
    on one yet. With `TRITON_INTERPRET=1` tensors on the CPU pass too: Triton's interpreter then runs the kernels,
    slowly, which is how they are tested without a GPU. `dense_only` and `CHRONOSAE_KERNELS=torch` switch them off.
    """
    first = tensors[0]
    if compiled._off or torch.compiler.is_compiling():
        return None
    asked = {"cuda": os.environ.get("CHRONOSAE_KERNELS") == "triton", "cpu": interpreted()}
    if not asked.get(first.device.type, False):
        return None
    if any(t.device != first.device or t.dtype not in FLOATS for t in tensors):
        return None
    return _load()


def fused_kernels(*tensors: Tensor) -> bool:
    """Whether kernels on these tensors are compiled loops or the GPU's, rather than torch."""
    return gpu_kernels(*tensors) is not None or compiled.compiled_kernels(*tensors)


def interpreted() -> bool:
    """Whether Triton's interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _load() -> SimpleNamespace | None:
    if os.environ.get("CHRONOSAE_KERNELS") == "torch":
        return None
    try:
        from chronosae.kernels.gpu import context, counts, decode, distance, encode, largest, threshold, update
    except ImportError:
        return None
    except Exception as error:
        warnings.warn(f"GPU kernels are not available ({type(error).__name__}: {error}); using torch", stacklevel=2)
        return None
    return SimpleNamespace(
        adamw_=update.adamw_,
        count_active=counts.count_active,
        encode_threshold=threshold.encode_threshold,
        encode_topk=encode.encode_topk,
        encode_topk_in_context=context.encode_topk_in_context,
        gradient_energy=update.gradient_energy,
        largest_positive=largest.largest_positive,
        sparse_decode=decode.sparse_decode,
        squared_error=distance.squared_error,
    )
