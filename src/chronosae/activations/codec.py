"""Activations as numpy arrays on disk: exact, rounded to bfloat16, or int8 with one scale a token."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

CacheDtype = Literal["float32", "bfloat16", "int8"]
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
SCALE = ".scale"  # suffix of the array that holds the scales of int8


def layout(site: str, d_in: int, dtype: CacheDtype) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """Array name -> (numpy type, shape of one token) for one site; bfloat16 is kept as its 16 bits."""
    stored = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}[dtype]
    arrays: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {site: (stored, (d_in,))}
    if dtype == "int8":
        arrays[site + SCALE] = (np.float32, ())
    return arrays


def token_bytes(d_in: int, dtype: CacheDtype) -> int:
    """Bytes one token of one site takes."""
    return d_in * _BYTES[dtype] + (4 if dtype == "int8" else 0)


def encode(site: str, acts: Float[Tensor, "batch pos d_in"], dtype: CacheDtype) -> dict[str, np.ndarray]:
    """The arrays of `layout`; int8 is symmetric, scale = absmax / 127, so the error is at most half a scale."""
    acts = acts.detach().float().cpu()
    if dtype == "float32":
        return {site: acts.numpy()}
    if dtype == "bfloat16":
        return {site: acts.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)}
    scale = acts.abs().amax(-1, keepdim=True) / 127
    # A zero vector, or one so small that its scale underflows, is stored as zeros.
    codes = torch.where(scale > 0, acts / scale, 0.0).round().clamp(-127, 127).to(torch.int8)
    return {site: codes.numpy(), site + SCALE: scale.squeeze(-1).numpy()}


def decode(site: str, arrays: dict[str, np.ndarray], dtype: CacheDtype) -> Float[Tensor, "batch pos d_in"]:
    """Activations in float32 from the arrays of `layout`."""
    stored = arrays[site]
    if dtype == "float32":
        return torch.from_numpy(stored)
    if dtype == "bfloat16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(stored).float() * torch.from_numpy(arrays[site + SCALE]).unsqueeze(-1)
