"""Activations read from a complete cache, at disk speed.

Rows of numpy files are read straight into memory that the caller has. The files aren't mapped: the page faults of a map
cost more than copying its pages, and a map keeps its file open.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.activations.batch import SequenceBatch
from chronosae.activations.cache import TOKEN_ARRAYS, CacheDtype, ShardFolder, decode, decode_into, layout
from chronosae.activations.harvest import SiteBatches
from chronosae.activations.sequences import TokenBatch
from chronosae.config import UserError
from chronosae.corpora import permutation
from chronosae.kernels.dispatch import recycled

_CAN_ADVISE = hasattr(os, "posix_fadvise")  # Linux; elsewhere the system's own reading ahead has to do
_OPEN_AT_MOST = 192  # a stream has two of these, and a process may usually have 1,024 files open


class Rows(NamedTuple):
    """How the rows of a file lie in it."""

    start: int
    """Bytes before the first."""
    width: int
    """Bytes a row."""
    shape: tuple[int, ...]
    """Of a row."""
    dtype: np.dtype


class ShardRows:
    """Reads rows of the arrays in a folder of shards. Not for two threads at once.

    Args:
        shards: complete; checksums of a shard are compared before its first row is read.
    """

    def __init__(self, shards: ShardFolder) -> None:
        self._shards = shards
        self._rows: dict[tuple[int, str], Rows] = {}
        self._open: OrderedDict[tuple[int, str], FileIO] = OrderedDict()

    def layout(self, shard: int, name: str) -> Rows:
        """Shape and type of the rows of one array.

        Raises:
            UserError: the shard is damaged.
        """
        if (shard, name) not in self._rows:
            self._shards.verify(shard)
            file = self._file(shard, name)
            file.seek(0)
            assert np.lib.format.read_magic(file) == (1, 0)  # as numpy writes what we give it
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            width = math.prod(shape[1:]) * dtype.itemsize
            self._rows[shard, name] = Rows(file.tell(), width, shape[1:], dtype)
        return self._rows[shard, name]

    def read(self, shard: int, name: str, row: int, out: np.ndarray) -> None:
        """Fill `out`, contiguous and of the row's shape and type.

        Raises:
            UserError: the shard is damaged.
        """
        rows = self.layout(shard, name)
        assert out.shape == rows.shape and out.dtype == rows.dtype and out.flags.c_contiguous
        file, wanted = self._file(shard, name), out.reshape(-1).view(np.uint8).data
        file.seek(rows.start + row * rows.width)
        while wanted:
            count = file.readinto(wanted)
            if not count:
                raise UserError(f"{file.name}: became shorter while it was read; delete {self._shards.path(shard)}")
            wanted = wanted[count:]

    def will_need(self, shard: int, name: str, row: int | None = None) -> None:
        """Ask the system to fetch a row, or all of them, from disk meanwhile; where it can't be asked, do nothing."""
        if _CAN_ADVISE:
            rows = self.layout(shard, name)
            start, length = (0, 0) if row is None else (rows.start + row * rows.width, rows.width)
            os.posix_fadvise(self._file(shard, name).fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def _file(self, shard: int, name: str) -> FileIO:
        key = shard, name
        if key not in self._open:
            if len(self._open) == _OPEN_AT_MOST:
                self._open.popitem(last=False)[1].close()
            self._open[key] = FileIO(self._shards.path(shard) / f"{name}.npy")
        self._open.move_to_end(key)
        return self._open[key]


class PinnedSlots:
    """Two sets of page-locked buffers that take turns: one is filled while the other is on its way.

    Copies are put on the current stream of the calling thread and not waited for. A set is filled again only when what
    it held has arrived.

    Args:
        device: where the contents go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._streams = device, torch.get_device_module(device)
        self._slots: list[dict[str, Tensor]] = [{}, {}]
        self._sent: list[Any] = [None, None]
        self._turn = 0

    def buffers(self, wanted: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
        """Buffers of these shapes and types, to be filled and then sent; what they hold now is of no use."""
        self._turn = 1 - self._turn
        if (sent := self._sent[self._turn]) is not None:
            sent.synchronize()
        slot = self._slots[self._turn]
        for name, (shape, dtype) in wanted.items():
            if name not in slot or slot[name].shape != shape or slot[name].dtype != dtype:
                slot[name] = torch.empty(shape, dtype=dtype, pin_memory=self._device.type == "cuda")
        return {name: slot[name] for name in wanted}

    def send(self, filled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latest buffers' contents, on the device."""
        copies = {name: t.to(self._device, non_blocking=True, copy=True) for name, t in filled.items()}
        self._sent[self._turn] = event = self._streams.Event()
        event.record(self._streams.current_stream(self._device))
        return copies


_ORDER = 0xCAC4E  # keeps this use of the seed apart from others
_TORCH = {np.float32: torch.float32, np.uint16: torch.uint16, np.int8: torch.int8}
Place = tuple[int, int]
"""Shard, and row in it."""


class CachedStream:
    """Batches from a complete cache, every epoch in another order of sequences.

    The order is a function of (seed, epoch), so the place is two numbers. A batch may span two epochs.

    Args:
        shards: a complete cache.
        sites: sites to read; each is in the cache.
        dtype: how they are stored.
        batch_sequences: sequences a batch.
        seed: of the order.
        device: where batches go. To a GPU they go as they are stored, from page-locked memory, and aren't waited for.
    """

    def __init__(
        self,
        shards: ShardFolder,
        sites: Sequence[str],
        dtype: CacheDtype,
        *,
        batch_sequences: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        assert shards.complete and shards.shards
        self._shards, self._sites, self._device = shards, list(sites), torch.device(device)
        self._dtype: CacheDtype = dtype
        self._batch, self._seed = batch_sequences, seed
        self._rows, self._second = ShardRows(shards), ShardRows(shards)
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="chronosae-cache")
        self._arrays = {site: layout(site, 0, dtype) for site in self._sites}
        scales = [name for arrays in self._arrays.values() for name in arrays if name not in self._sites]
        self._small_names = [*TOKEN_ARRAYS, *scales]
        self._begun: set[int] = set()  # shards whose small arrays were asked for
        self._slots = None if self._device.type == "cpu" else PinnedSlots(self._device)
        self._place: list[Place] = [(i, row) for i, shard in enumerate(shards.shards) for row in range(shard["rows"])]
        self._epoch = self._cursor = 0
        self._order = self._epoch_order()

    def __len__(self) -> int:
        return len(self._place)

    @property
    def epochs(self) -> float:
        """Passes over the cache so far."""
        return self._epoch + self._cursor / len(self)

    def next(self) -> SiteBatches:
        """The next `batch_sequences` sequences at every site, float32."""
        wanted: list[int] = []
        while len(wanted) < self._batch:
            if self._cursor == len(self):
                self._epoch, self._cursor = self._epoch + 1, 0
                self._order = self._epoch_order()
            piece = self._order[self._cursor : self._cursor + self._batch - len(wanted)]
            wanted += piece.tolist()
            self._cursor += len(piece)
        self._read_ahead([wanted[-1], *self._order[self._cursor : self._cursor + self._batch].tolist()])
        return self.read(wanted)

    def _read_ahead(self, numbers: Sequence[int]) -> None:
        """Let the system fetch all sequences but the first from disk while this batch is decoded and trained on."""
        for before, number in pairwise(numbers):
            shard, row = self._place[number]
            if shard not in self._begun:
                self._begun.add(shard)
                for name in self._small_names:
                    self._rows.will_need(shard, name)
            if number != before + 1:  # in order, the system fetches ahead by itself, and better
                for site in self._sites:
                    self._rows.will_need(shard, site, row)

    def read(self, numbers: Sequence[int]) -> SiteBatches:
        """The sequences with these numbers, in this order.

        Raises:
            UserError: a shard they lie in is damaged.
        """
        places = [self._place[number] for number in numbers]
        ids, mask, doc_ids = (torch.from_numpy(self._small(name, places)) for name in ("tokens", "mask", "doc_ids"))
        source = tuple(str(self._small("source", [place])[0]) for place in places)
        tokens = TokenBatch(ids.long(), doc_ids, mask, source)
        acts = self._decoded(places) if self._slots is None else self._sent(places, self._slots)
        shared = {name: getattr(tokens, name).to(self._device) for name in ("tokens", "mask", "doc_ids", "positions")}
        return {site: SequenceBatch(acts=acts[site], source=source, **shared) for site in self._sites}

    def _small(self, name: str, places: Sequence[Place]) -> np.ndarray:
        """One array's rows, stacked."""
        rows = self._rows.layout(places[0][0], name)
        found = np.empty((len(places), *rows.shape), rows.dtype)
        for i, (shard, row) in enumerate(places):
            self._rows.read(shard, name, row, found[i, ...])
        return found

    def _decoded(self, places: Sequence[Place]) -> dict[str, Float[Tensor, "batch pos d_in"]]:
        """Read and decoded one sequence at a time, so that the stored one never leaves the processor's cache."""
        shapes = {site: (len(places), *self._rows.layout(places[0][0], site).shape) for site in self._sites}
        acts = {site: recycled(shape, torch.float32) for site, shape in shapes.items()}

        def fill(rows: ShardRows, part: slice) -> None:
            for site, tensor in acts.items():
                layouts = {name: rows.layout(places[0][0], name) for name in self._arrays[site]}
                stored = {name: np.empty(found.shape, found.dtype) for name, found in layouts.items()}
                for (shard, row), out in zip(places[part], tensor.numpy()[part], strict=True):
                    if self._dtype == "float32":
                        rows.read(shard, site, row, out)
                        continue
                    for name, array in stored.items():
                        rows.read(shard, name, row, array)
                    decode_into(out, site, stored, self._dtype)

        self._by_two(places, fill)
        return acts

    def _sent(self, places: Sequence[Place], slots: PinnedSlots) -> dict[str, Float[Tensor, "batch pos d_in"]]:
        """Decoded where they are going: half the bytes travel, or a quarter."""
        first = places[0][0]
        buffers = slots.buffers(
            {
                name: ((len(places), *self._rows.layout(first, name).shape), _TORCH[kind])
                for arrays in self._arrays.values()
                for name, (kind, _) in arrays.items()
            }
        )

        def fill(rows: ShardRows, part: slice) -> None:
            for name, buffer in buffers.items():
                for (shard, row), out in zip(places[part], buffer.numpy()[part], strict=True):
                    rows.read(shard, name, row, out)

        self._by_two(places, fill)
        there = slots.send(buffers)
        return {site: decode(site, there, self._dtype) for site in self._sites}

    def _by_two(self, places: Sequence[Place], fill: Callable[[ShardRows, slice], None]) -> None:
        """Half of a batch is filled by a second thread: while one waits for the disk, the other decodes."""
        for shard in {shard for shard, _ in places}:
            self._shards.verify(shard)  # or both would
        middle = len(places) // 2
        second = self._helper.submit(fill, self._second, slice(middle, None))
        try:
            fill(self._rows, slice(0, middle))
        finally:
            error = second.exception()
        if error is not None:
            raise error

    def _epoch_order(self) -> np.ndarray:
        return permutation(len(self), self._seed, _ORDER, self._epoch)

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The place now; the result makes its `state_dict`, now or when the stream has gone on."""
        state = {"cache": self._shards.address, "epoch": self._epoch, "cursor": self._cursor}
        return lambda: dict(state)

    def state_dict(self) -> dict[str, Any]:
        """The place: which cache, epoch, sequences read of it."""
        return self.bookmark()()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told; `UserError` when it lies in another cache."""
        if state.get("cache") != self._shards.address:
            raise UserError(
                f"saved data order doesn't belong to the activations in {self._shards.folder}; go on with the"
                " configuration the run was started with"
            )
        self._epoch, self._cursor = state["epoch"], state["cursor"]
        self._order = self._epoch_order()
