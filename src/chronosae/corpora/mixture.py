"""A weighted mixture of sources that knows its place to the document.

Its randomness depends on numbers, not on the order of calls: SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"), chained over its arguments. The same arguments give the same value on every machine
and every library version, so "what comes next" can be computed from a position alone and a resumed run needs no
generator state.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from chronosae.config import UserError
from chronosae.corpora.source import Document, Source

Part = Literal["train", "heldout", "all"]

_BITS = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(word: int) -> int:
    word = (word + _GOLDEN) & _BITS
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _BITS
    return word ^ (word >> 31)


def hash64(*words: int) -> int:
    """64 well-mixed bits that depend on every word and on their order."""
    state = 0
    for word in words:
        state = _mix(state ^ _mix(word & _BITS))
    return state


def uniform(*words: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    return (hash64(*words) >> 11) * 2.0**-53


def permutation(n: int, *words: int) -> np.ndarray:
    """The numbers 0..n-1 in an order that depends only on `words`; int64, shape [n]."""
    state = np.arange(n, dtype=np.uint64) ^ np.uint64(hash64(*words))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = state + np.uint64(_GOLDEN)  # array arithmetic wraps modulo 2^64, as SplitMix64 wants
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable")


@dataclass
class _Cursor:
    """The place in one source. Only the integers are state; the iterator follows from them."""

    source: Source
    part: Part
    holdout_every: int
    row: int = 0  # next row of the source
    kept: int = 0  # non-blank documents passed in this pass
    given: int = 0  # of these, documents of our part
    epoch: int = 0  # whole passes before this one
    length: int | None = None  # documents of our part in a pass, known after the first
    _iterator: Iterator[str] | None = field(default=None, repr=False)

    FIELDS = ("row", "kept", "given", "epoch", "length")

    def next(self) -> tuple[int, str] | None:
        """Number and text of the next document of our part; None at the end of a pass."""
        if self._iterator is None:
            self._iterator = self.source.documents(self.row)
        for text in self._iterator:
            self.row += 1
            if not text or text.isspace():
                continue
            index, self.kept = self.kept, self.kept + 1
            if self._ours(index):
                self.given += 1
                return index, text
        return None

    def _ours(self, index: int) -> bool:
        held_out = index % self.holdout_every == self.holdout_every - 1
        return self.part == "all" or held_out == (self.part == "heldout")

    def end_pass(self) -> None:
        """Note the length and go back to the top; an endless search for a document that isn't there ends here."""
        if not self.kept:
            raise UserError(f"corpus {self.source.name!r} holds no document: it is empty or all blank")
        self.length, self.epoch = self.given, self.epoch + 1
        self.row = self.kept = self.given = 0
        self._iterator = None

    @property
    def passes(self) -> float:
        return self.epoch + (self.given / self.length if self.length else 0.0)


class Mixture:
    """Documents of several sources; the n-th comes from a source that depends on `seed` and n alone.

    Shares are of documents. A source that ends starts again (`epoch` of its documents grows), unless `repeat` is
    False: then the others go on without it until all have ended. Blank documents are passed over and not counted.
    Document i of a source is held out if i % holdout_every == holdout_every - 1.

    Args:
        sources: what to mix; names must differ.
        weights: relative shares, one a source.
        seed: of the order of sources.
        part: `train` leaves the held-out documents out, `heldout` gives only those, `all` gives every one.
        holdout_every: one document in this many is held out.
        repeat: start a source again when it ends.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float] | None = None,
        *,
        seed: int = 0,
        part: Part = "all",
        holdout_every: int = 20,
        repeat: bool = True,
    ) -> None:
        assert sources, "a mixture of nothing"
        weights = [1.0] * len(sources) if weights is None else weights
        assert len(weights) == len(sources) and min(weights) > 0
        self.sources, self.weights, self._seed, self._repeat = list(sources), list(weights), seed, repeat
        self._cursors = [_Cursor(source, part, holdout_every) for source in sources]
        total = sum(weights)
        self._edges = [edge / total for edge in accumulate(weights)][:-1]
        self._draw = 0

    @property
    def names(self) -> list[str]:
        """Names of the sources, in order."""
        return [source.name for source in self.sources]

    @property
    def epochs(self) -> list[float]:
        """Passes over each source so far; the fraction of the first one is unknown and counts 0."""
        return [cursor.passes for cursor in self._cursors]

    def documents(self) -> Iterator[Document]:
        """Documents from the present place on; `state_dict` is exact between any two of them.

        Raises:
            UserError: a source holds no document of this part, or a row can't be read.
        """
        while (document := self._next()) is not None:
            yield document

    def _next(self) -> Document | None:
        live = set(range(len(self._cursors)))
        if not self._repeat:
            live = {i for i in live if not self._cursors[i].epoch}
        while live:
            i, serial = self._choose(), self._draw
            self._draw += 1
            if i not in live:
                continue
            cursor = self._cursors[i]
            found = cursor.next()
            if found is None:
                cursor.end_pass()
                if not self._repeat:
                    live.discard(i)
                    continue
                found = cursor.next()
            if found is None:
                raise UserError(f"corpus {cursor.source.name!r} has no held-out document; make holdout_every smaller")
            return Document(found[1], cursor.source.name, found[0], cursor.epoch, serial)
        return None

    def _choose(self) -> int:
        return bisect_right(self._edges, uniform(self._seed, self._draw)) if self._edges else 0

    def state_dict(self) -> dict[str, Any]:
        """The place, as plain JSON-able data."""
        places = [{name: getattr(cursor, name) for name in _Cursor.FIELDS} for cursor in self._cursors]
        return {"draw": self._draw, "names": self.names, "places": places}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told.

        Raises:
            UserError: the state belongs to other sources.
        """
        if state["names"] != self.names:
            raise UserError(f"saved data order mixes {state['names']}, this configuration mixes {self.names}")
        self._draw = state["draw"]
        for cursor, place in zip(self._cursors, state["places"], strict=True):
            for name in _Cursor.FIELDS:
                setattr(cursor, name, place[name])
            cursor._iterator = None
