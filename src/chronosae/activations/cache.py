"""Activations harvested once and written to disk; `cached` reads them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from chronosae.activations.codec import CacheDtype, encode, layout, token_bytes
from chronosae.activations.harvest import harvest, require_finite
from chronosae.activations.sequences import Sequences, TokenBatch
from chronosae.activations.shards import ShardFolder
from chronosae.config import UserError
from chronosae.subject import Subject

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
