"""Rows of numpy files, read straight into memory that the caller has.

The files aren't mapped: the page faults of a map cost more than copying its pages, and a map keeps its file open.
"""

import math
import os
from collections import OrderedDict
from io import FileIO
from typing import NamedTuple

import numpy as np

from chronosae.activations.shards import ShardFolder
from chronosae.config import UserError

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

    Arguments:
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
