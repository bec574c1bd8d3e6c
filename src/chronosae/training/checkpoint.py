"""Checkpoints: written whole or not at all, read without running anything they contain."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from chronosae.config import UserError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by `state` in one atomic step; a crash leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        torch.save(state, handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only).

    Raises:
        UserError: missing, truncated, or holding anything else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint to resume from")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError):
        raise UserError(f"{path}: damaged checkpoint; delete it and start over with --overwrite") from None
