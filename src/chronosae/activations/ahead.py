"""Streams around a stream: batches made before they are asked for, and batches handed out a second time."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch

from chronosae.activations.harvest import ActivationStream, SiteBatches


class Bookmarked(ActivationStream, Protocol):
    """A stream whose place is cheap to note and dear to write down."""

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The place now; the result makes its `state_dict`, now or when the stream has gone on."""
        ...


class _Place(NamedTuple):
    state: Callable[[], dict[str, Any]]
    epochs: float


def place_of(stream: Bookmarked) -> _Place:
    """Where it stands."""
    return _Place(stream.bookmark(), stream.epochs)


class _Made(NamedTuple):
    batches: SiteBatches
    place: _Place
    """Behind these batches."""
    ready: Any
    """The event behind the last piece of GPU work that they need."""


class Ahead:
    """The same batches in the same order, made on a thread of their own before they are asked for.

    To the trainer it is the stream: its state is the place behind the last batch handed out, whatever has been made
    since, so checkpoints and resumed runs don't know of it. An error comes, as it was raised, with the batch that it
    spoils. Nothing else may use `stream`, or its subject, until `close`.

    On a GPU the thread's work goes to a CUDA stream of its own, and the caller's stream waits for it there: no thread
    does.

    Args:
        stream: where the batches come from.
        depth: batches made ahead at most. A harvest that fills several batches needs as many.
        device: where the batches are.
    """

    def __init__(self, stream: Bookmarked, depth: int = 1, device: torch.device | str = "cpu") -> None:
        self._stream, self._depth = stream, depth
        self._device = torch.device(device)
        # torch.cpu has streams and events too, which do nothing.
        self._cuda: Any = torch.get_device_module(self._device)
        self._lane = self._cuda.Stream(self._device)
        # What the subject's weights were loaded with.
        self._lane.wait_stream(self._cuda.current_stream(self._device))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chronosae-ahead")
        self._coming: deque[Future[_Made]] = deque()
        self._place: _Place | None = None  # of the stream itself, as long as it stands there
        self._failed = False

    def next(self) -> SiteBatches:
        """The next batches; those after them are begun."""
        if not self._coming:
            self._place = place_of(self._stream)
            self._begin()
        try:
            made = self._coming[0].result()
        except Exception:
            self._drop()
            raise
        self._coming.popleft()
        self._place = made.place
        while len(self._coming) < self._depth:
            self._begin()
        return self._received(made)

    @property
    def epochs(self) -> float:
        """Passes over the most repeated source, as of the last batch handed out."""
        return self._stream.epochs if self._place is None else self._place.epochs

    def state_dict(self) -> dict[str, Any]:
        """The stream's, as of the last batch handed out."""
        return self._stream.state_dict() if self._place is None else self._place.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told; what was made ahead is thrown away."""
        self._drop()
        self._stream.load_state_dict(state)
        self._place = None

    def close(self) -> None:
        """End the thread, after the batch that it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        self._coming.append(self._thread.submit(self._make))

    def _make(self) -> _Made:
        """On the thread."""
        if self._failed:
            raise RuntimeError("the batch before this one could not be made")
        try:
            with self._cuda.stream(self._lane):
                batches = self._stream.next()
                ready = self._cuda.Event()
                ready.record(self._lane)
            return _Made(batches, place_of(self._stream), ready)
        except BaseException:
            # The batches after a spoilt one are nobody's.
            self._failed = True
            raise

    def _received(self, made: _Made) -> SiteBatches:
        consumer = self._cuda.current_stream(self._device)
        made.ready.wait(consumer)
        if self._device.type != "cpu":
            # Or the memory would be lent to the thread's next batch while the autoencoders still read it.
            for batch in made.batches.values():
                for tensor in (batch.acts, batch.mask, batch.tokens, batch.positions, batch.doc_ids):
                    tensor.record_stream(consumer)
        return made.batches

    def _drop(self) -> None:
        """Wait for what has been begun, and forget it."""
        for future in reversed(self._coming):
            if not future.cancel():
                future.exception()
        self._coming.clear()
        self._failed = False


# Activations kept at most. A forward pass costs more than memory, up to here.
KEPT_BYTES = 2**28


class Rewindable:
    """The same batches in the same order, and from the beginning again after `rewind`.

    What was read until then is kept and handed out a second time. Where that is more than `kept_bytes`, nothing is kept
    and `rewind` sends the stream itself back. To the trainer it is the stream: its state is the place behind the last
    batch handed out.

    Args:
        stream: where the batches come from; nothing else may read it.
        kept_bytes: activations kept at most.
    """

    def __init__(self, stream: Bookmarked, kept_bytes: int = KEPT_BYTES) -> None:
        self._stream, self._room = stream, kept_bytes
        self._start = self._place = place_of(stream)
        # Batches with the places behind them: read so far (None: not kept), and to be handed out again.
        self._read: deque[tuple[SiteBatches, _Place]] | None = deque()
        self._again: deque[tuple[SiteBatches, _Place]] = deque()

    def next(self) -> SiteBatches:
        """The next batches."""
        if self._again:
            batches, self._place = self._again.popleft()
            return batches
        batches = self._stream.next()
        self._place = place_of(self._stream)
        if self._read is not None:
            self._room -= sum(batch.acts.nbytes for batch in batches.values())
            self._read.append((batches, self._place))
            self._read = None if self._room < 0 else self._read
        return batches

    def rewind(self) -> None:
        """Go back to the beginning, once; from here on nothing more is kept."""
        if self._read is None:
            self._stream.load_state_dict(self._start.state())
        else:
            self._again, self._read = self._read, None
        self._place = self._start

    @property
    def epochs(self) -> float:
        """Passes over the most repeated source, as of the last batch handed out."""
        return self._place.epochs

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The place now; the result makes its `state_dict`, now or when the stream has gone on."""
        return self._place.state

    def state_dict(self) -> dict[str, Any]:
        """The stream's, as of the last batch handed out."""
        return self._place.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told; nothing is handed out again."""
        self._again.clear()
        self._read = None
        self._stream.load_state_dict(state)
        self._place = place_of(self._stream)
