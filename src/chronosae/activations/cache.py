"""Activations on disk: harvested once, in shards that are written whole or not at all; `cached` reads them.

    cache/manifest.json          knows the size and SHA-256 of each file
    cache/shard-00000/tokens.npy, mask.npy, doc_ids.npy, source.npy, <site>.npy [, <site>.scale.npy], state.pt

Values are exact, rounded to bfloat16, or int8 with one scale a token.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.activations.harvest import harvest, require_finite
from chronosae.activations.sequences import Sequences, TokenBatch
from chronosae.config import UserError
from chronosae.config.files import write_text
from chronosae.subject import Subject

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
        manifest = {"key": self.key, "complete": self.complete, "shards": self.shards}
        write_text(self.folder / _MANIFEST, json.dumps(manifest, indent=1))
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


_SHARD_BYTES = 1 << 28
TOKEN_ARRAYS = {"tokens": np.int32, "mask": np.bool_, "doc_ids": np.int64}


def cache_bytes(n_sequences: int, context: int, d_ins: Sequence[int], dtype: CacheDtype) -> int:
    """Bytes of the values in a cache of `n_sequences` contexts, one entry of `d_ins` a site.

    Exact for activations, scales, tokens, mask and document ids. Not counted: headers (128 bytes a file), the names of
    the sources (4 bytes a letter and sequence), and the place in the text behind each shard.
    """
    kept = sum(np.dtype(kind).itemsize for kind in TOKEN_ARRAYS.values())
    return n_sequences * context * (sum(token_bytes(d_in, dtype) for d_in in d_ins) + kept)


class CacheBuilder:
    """Writes a cache shard by shard; a build that was stopped goes on at the next shard.

    Args:
        folder: where the shards go.
        key: what the content is made from; see `ShardFolder`.
        sequences: makes a fresh, unshuffled, one-pass source of contexts; called again to count or to resume.
        subject, sites: what is harvested.
        n_sequences: contexts wanted; fewer when the pass ends before.
        context, harvest_sequences, dtype: as in `ActivationsConfig`.
        shard_sequences: contexts a shard; about 256 MB when absent.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        sequences: Callable[[], Sequences],
        subject: Subject,
        sites: Sequence[str],
        *,
        n_sequences: int,
        context: int,
        harvest_sequences: int,
        dtype: CacheDtype,
        shard_sequences: int | None = None,
    ) -> None:
        self._make, self._subject, self._n, self._chunk = sequences, subject, n_sequences, harvest_sequences
        self._context = context
        self._dtype: CacheDtype = dtype
        self._d_ins = {site: subject.d_in(site) for site in sites}
        each = cache_bytes(1, context, list(self._d_ins.values()), dtype)
        self._per_shard = shard_sequences or max(1, _SHARD_BYTES // each // harvest_sequences) * harvest_sequences
        self._shards = ShardFolder(folder, {**key, "shard_sequences": self._per_shard})

    def build(self) -> ShardFolder:
        """The complete cache; only shards that aren't there are harvested.

        Raises:
            UserError: too little disk space, a damaged shard, or a folder that holds something else.
        """
        shards = self._shards
        if shards.complete and all(shards.present(i) for i in range(len(shards.shards))):
            return shards
        self._check_space()
        source: Sequences | None = None  # set while it stands exactly behind the last shard
        for number in count():
            if shards.present(number):
                source = None
            else:
                source = source or self._behind(number)
                left = self._n - number * self._per_shard
                tokens = source.take(min(self._per_shard, left)) if left > 0 else None
                if not tokens:
                    break
                shards.write(number, lambda folder, t=tokens: self._fill(folder, t), source.state_dict())
            if shards.complete and number + 1 == len(shards.shards):
                return shards
        if not shards.shards:
            raise UserError("the corpus holds not one context of tokens; give more text or a smaller context")
        shards.finish()
        return shards

    def _behind(self, number: int) -> Sequences:
        source = self._make()
        if number:
            source.load_state_dict(self._shards.state(number - 1))
        return source

    def _fill(self, folder: Path, tokens: TokenBatch) -> int:
        n, shape = len(tokens), (len(tokens), self._context)
        np.save(folder / "source.npy", np.array(tokens.source, dtype=np.str_))
        for name, kind in TOKEN_ARRAYS.items():
            np.save(folder / f"{name}.npy", getattr(tokens, name).numpy().astype(kind))
        files: dict[str, np.memmap] = {}
        for site, d_in in self._d_ins.items():
            for name, (kind, tail) in layout(site, d_in, self._dtype).items():
                path = folder / f"{name}.npy"
                files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape + tail)
        for start in range(0, n, self._chunk):
            part = slice(start, min(start + self._chunk, n))
            for site, batch in require_finite(
                harvest(self._subject, tokens[part], list(self._d_ins)), self._subject
            ).items():
                for name, values in encode(site, batch.acts, self._dtype).items():
                    files[name][part] = values
        for file in files.values():
            file.flush()
        return n

    def _check_space(self) -> None:
        folder = self._shards.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"activations.cache_dir: {folder}: can't be made ({error.strerror})") from None
        free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.glob("shard-*/*.npy"))
        widths = list(self._d_ins.values())
        if cache_bytes(self._n, self._context, widths, self._dtype) <= free:
            return
        # The corpus may be smaller than the token budget: count before refusing.
        source, there = self._make(), 0
        while there < self._n and (taken := len(source.take(min(self._chunk, self._n - there)))):
            there += taken
        need = cache_bytes(there, self._context, widths, self._dtype)
        if need > free:
            raise UserError(
                f"activations.cache_dir: {folder} needs {need / 1e9:.2f} GB and has {free / 1e9:.2f} GB free; lower"
                " training.tokens, use activations.cache_dtype=int8, or stream with activations.store=stream"
            )
