"""Activations of a data set, kept on disk under a name made of everything that decides them: never stale."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# Part of every key: raise it when the numbers that are stored, or their layout, change.
FORMAT = 1
DONE = "complete.json"


class ActivationCache:
    """Chunks of activations by content. `None` as folder keeps nothing.

    Arguments:
        folder: where data sets are kept, one folder each; made when first needed.
        keep: largest total size in bytes; a data set that doesn't fit is computed each time.
    """

    def __init__(self, folder: Path | None, keep: int = 20 * 2**30) -> None:
        self.folder, self.keep = folder, keep

    def chunks(
        self, parts: dict[str, Any], count: int, size: int, compute: Callable[[int], Tensor]
    ) -> Iterator[Tensor]:
        """Chunk 0 to `count - 1`: read where they are kept, else computed and kept.

        A data set is used again only when all its chunks were written: an interrupted one is computed anew.

        Arguments:
            parts: everything that decides the activations; plain data.
            size: bytes of the whole data set.
            compute: the activations of one chunk.
        """
        key = hashlib.sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True).encode()).hexdigest()
        folder = None if self.folder is None else self.folder / key
        if folder is not None and (folder / DONE).is_file():
            for i in range(count):
                kept = _read(folder / _name(i))
                yield compute(i) if kept is None else kept
            return
        if folder is None or not self._fits(size):
            yield from (compute(i) for i in range(count))
            return
        # Aside until it is whole: other processes may be at the same data.
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{key[:8]}-"))
        try:
            for i in range(count):
                acts = compute(i)
                save_file({"acts": acts.contiguous().cpu()}, aside / _name(i))
                yield acts
            facts = json.dumps({"format": FORMAT, **parts}, indent=1, sort_keys=True)
            (aside / DONE).write_text(facts, encoding="utf-8")
            with suppress(OSError):  # another process was first
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _fits(self, size: int) -> bool:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors"))
        return kept + size <= self.keep and size < 0.9 * shutil.disk_usage(self.folder).free


def _name(index: int) -> str:
    return f"{index:05d}.safetensors"


def _read(path: Path) -> Tensor | None:
    """None where somebody has removed or damaged it."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("acts")
    except (OSError, SafetensorError):
        return None


def bytes_of(tokens: int, d_in: int, dtype: torch.dtype = torch.float32) -> int:
    """Disk for `tokens` activations of width `d_in`."""
    return tokens * d_in * dtype.itemsize
