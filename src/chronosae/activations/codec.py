"""Activations as numpy arrays on disk: exact, rounded to bfloat16, or int8 with one scale a token."""

from collections.abc import Mapping
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


def decode(site: str, arrays: Mapping[str, Tensor], dtype: CacheDtype) -> Float[Tensor, "*batch d_in"]:
    """Activations in float32 from the arrays of `layout` as tensors, on whatever device they are."""
    stored = arrays[site]
    if dtype == "bfloat16":
        return stored.view(torch.bfloat16).float()
    return stored if dtype == "float32" else stored.float() * arrays[site + SCALE].unsqueeze(-1)


def decode_into(
    out: Float[np.ndarray, "*batch d_in"], site: str, arrays: Mapping[str, np.ndarray], dtype: CacheDtype
) -> None:
    """The same bits as `decode`, into memory that is there, by the calling thread alone.

    For one sequence at a time, while the processor's cache has it: torch's threads would have to be woken, which on a
    machine that does other things too takes longer than the work.
    """
    if dtype == "bfloat16":
        bits = out.view(np.uint32)
        np.copyto(bits, arrays[site])
        bits <<= 16
        return
    np.copyto(out, arrays[site])
    if dtype == "int8":
        out *= arrays[site + SCALE][..., None]
