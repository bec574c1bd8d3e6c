"""A folder of numpy files with a manifest that knows the size and SHA-256 of each: written whole or not at all.

cache/manifest.json
cache/shard-00000/tokens.npy, mask.npy, doc_ids.npy, source.npy, <site>.npy [, <site>.scale.npy], state.pt
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from chronosae.config import UserError

FORMAT = 1
_MANIFEST = "manifest.json"
_STATE = "state.pt"
_WINDOWS = os.name == "nt"
# Files that this process has compared with their checksums: a run opens its cache twice and reads it once for that.
_intact: set[tuple[str, int, int, str]] = set()


class ShardFolder:
    """Shards and their manifest.

    `key` says what the content is made from. A folder that holds something else is refused, never mixed or reused.

    Raises:
        UserError: the folder belongs to another key, or its manifest can't be read.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder, self.key = folder, json.loads(json.dumps(key))
        self._verified: set[int] = set()
        manifest = self._read_manifest()
        self.shards: list[dict[str, Any]] = manifest["shards"] if manifest else []
        self.complete: bool = bool(manifest and manifest["complete"])

    @property
    def address(self) -> str:
        """SHA-256 of the key."""
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()

    def path(self, number: int) -> Path:
        """Folder of one shard."""
        return self.folder / f"shard-{number:05d}"

    def present(self, number: int) -> bool:
        """Whether a shard is written; `UserError` names one that is there but cut short.

        A shard whose folder is gone (deleted because it was damaged) counts as not written.
        """
        if number >= len(self.shards) or not self.path(number).is_dir():
            return False
        for name, entry in self.shards[number]["files"].items():
            file = self.path(number) / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise self._damaged(number, name, "is missing" if not file.is_file() else "has the wrong size")
        return True

    def write(self, number: int, fill: Callable[[Path], int], state: dict[str, Any]) -> None:
        """Write a shard: `fill(folder)` writes its files and returns its rows; `state` is kept beside them.

        Everything goes to a folder of another name, reaches the disk, and is then renamed; the manifest follows.
        A stop at any point leaves the earlier shards as they were and this one unwritten.
        """
        partial = self.path(number).with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        n_rows = fill(partial)
        torch.save(state, partial / _STATE)
        files = {}
        for file in sorted(partial.iterdir()):
            _to_disk(file)
            files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        shutil.rmtree(self.path(number), ignore_errors=True)
        partial.rename(self.path(number))
        self.shards[number:] = [{"rows": n_rows, "files": files}, *self.shards[number + 1 :]]
        self._verified.add(number)
        self._write_manifest()

    def finish(self) -> None:
        """Mark the cache complete."""
        self.complete = True
        self._write_manifest()

    def state(self, number: int) -> dict[str, Any]:
        """The state that was kept with a shard."""
        self.verify(number)
        return torch.load(self.path(number) / _STATE, weights_only=True)

    def verify(self, number: int) -> None:
        """Compare a shard's files with the manifest, once."""
        if number in self._verified:
            return
        for name, entry in self.shards[number]["files"].items():
            file = self.path(number) / name
            if not file.is_file():
                raise self._damaged(number, name, "is missing")
            if file.stat().st_size != entry["bytes"]:
                raise self._damaged(number, name, "has the wrong size")
            seen = (str(file.resolve()), entry["bytes"], file.stat().st_mtime_ns, entry["sha256"])
            if seen not in _intact and _sha256(file) != entry["sha256"]:
                raise self._damaged(number, name, "doesn't match its checksum")
            _intact.add(seen)
        self._verified.add(number)

    def _damaged(self, number: int, name: str, how: str) -> UserError:
        return UserError(
            f"{self.path(number) / name}: {how}, so the shard is damaged; delete the folder {self.path(number)} and"
            " run again: only this shard is built anew"
        )

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self.folder / _MANIFEST
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            held, _, _ = manifest["key"], manifest["shards"], manifest["complete"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a readable manifest; delete the folder to build the cache anew") from None
        if held != self.key:
            differ = ", ".join(sorted(k for k in held.keys() | self.key.keys() if held.get(k) != self.key.get(k)))
            raise UserError(
                f"{self.folder}: holds activations made from something else (differs in: {differ}); delete it or give"
                " another folder with --set activations.cache_dir=PATH"
            )
        return manifest

    def _write_manifest(self) -> None:
        path = self.folder / _MANIFEST
        partial = path.with_suffix(".partial")
        manifest = {"key": self.key, "complete": self.complete, "shards": self.shards}
        partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _to_disk(partial)
        partial.replace(path)
        _folder_to_disk(self.folder)


def _to_disk(file: Path) -> None:
    with file.open("r+b") as stream:  # Windows flushes only what is open for writing
        os.fsync(stream.fileno())


def _folder_to_disk(folder: Path) -> None:
    if _WINDOWS:  # where a folder can't be opened, and renames reach the disk with the journal
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
