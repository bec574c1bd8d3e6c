"""A stream's first batches, read once to measure them and handed out again to train on."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from chronosae.activations.ahead import Bookmarked
from chronosae.activations.harvest import SiteBatches

# Activations kept at most. A forward pass costs more than memory, up to here.
KEPT_BYTES = 2**28


class _Read(NamedTuple):
    batches: SiteBatches
    place: Callable[[], dict[str, Any]]
    """Behind these batches."""
    epochs: float


class Rewindable:
    """The same batches in the same order, and from the beginning again after `rewind`.

    What was read until then is kept and handed out a second time. Where that is more than `kept_bytes`, nothing is kept
    and `rewind` sends the stream itself back. To the trainer it is the stream: its state is the place behind the last
    batch handed out.

    Arguments:
        stream: where the batches come from; nothing else may read it.
        kept_bytes: activations kept at most.
    """

    def __init__(self, stream: Bookmarked, kept_bytes: int = KEPT_BYTES) -> None:
        self._stream, self._room = stream, kept_bytes
        self._read: deque[_Read] | None = deque()
        self._again: deque[_Read] = deque()
        self._start = self._place = _Read({}, stream.bookmark(), stream.epochs)

    def next(self) -> SiteBatches:
        """The next batches."""
        if self._again:
            self._place = self._again.popleft()
            batches, self._place = self._place.batches, self._place._replace(batches={})
            return batches
        batches = self._stream.next()
        self._place = _Read({}, self._stream.bookmark(), self._stream.epochs)
        if self._read is not None:
            self._room -= sum(batch.acts.nbytes for batch in batches.values())
            self._read = None if self._room < 0 else self._read
        if self._read is not None:
            self._read.append(self._place._replace(batches=batches))
        return batches

    def rewind(self) -> None:
        """Go back to the beginning, once; from here on nothing more is kept."""
        if self._read is None:
            self._stream.load_state_dict(self._start.place())
        else:
            self._again, self._read = self._read, None
        self._place = self._start

    @property
    def epochs(self) -> float:
        """Passes over the most repeated source, as of the last batch handed out."""
        return self._place.epochs

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The place now; the result makes its `state_dict`, now or when the stream has gone on."""
        return self._place.place

    def state_dict(self) -> dict[str, Any]:
        """The stream's, as of the last batch handed out."""
        return self._place.place()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told; nothing is handed out again."""
        self._again.clear()
        self._read = None
        self._stream.load_state_dict(state)
        self._place = _Read({}, self._stream.bookmark(), self._stream.epochs)
