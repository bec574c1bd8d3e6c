"""Tokens: the vectors to encode, and all that an encoder is told of them.

Where they stand (`Layout`), what a stream remembers of those before (`Memory`), the randomness of a training step
(`Draws`), and the value that takes all of it through the encoder (`Tokens`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import add_normal, centred_rows

# No document has this number, so nothing is ever looked up in a past that wasn't there.
NO_DOCUMENT = -(2**31)


class Layout(NamedTuple):
    """Mask, positions and documents of a batch.

    `positions` count unmasked tokens from 0. `doc_ids` number the documents of a sequence in order, whatever numbers
    the user gave them, so that two tokens are of one document just where they are equal; None when every sequence is
    one document.
    """

    mask: Bool[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    doc_ids: Int[Tensor, "batch pos"] | None


class Past(NamedTuple):
    """What came before the tokens at hand, oldest first; zeros where there was nothing."""

    values: Float[Tensor, "batch history width"]
    doc_ids: Int[Tensor, "batch history"] | None

    def each(self, function: Callable[[Tensor], Tensor]) -> "Past":
        """`function` of both."""
        return Past(function(self.values), None if self.doc_ids is None else function(self.doc_ids))

    def forget(self, where: Any) -> None:
        """Nothing was at these places, an index into both."""
        self.values[where] = 0
        if self.doc_ids is not None:
            self.doc_ids[where] = NO_DOCUMENT


class Memory:
    """The last rows that each part has been given, by the part's name; oldest first.

    Args:
        depths: rows that a part looks back, None for all of them.
        rewind: rows kept beyond that, so that as many may be taken back.
    """

    def __init__(self, depths: dict[str, int | None], rewind: int) -> None:
        self.depths, self.rewind = depths, rewind
        self.rows: dict[str, Past] = {}

    def recall(self, name: str, x: Float[Tensor, "batch n width"], doc_ids: Int[Tensor, "batch n"] | None) -> Past:
        """What came before `x`, which is remembered from now on."""
        depth = self.depths[name]
        past = self.rows.get(name) or self._nothing(name, x, doc_ids)
        if (past.doc_ids is None) != (doc_ids is None):
            raise ValueError("give doc_ids at every step of a stream or at none")
        docs = None if doc_ids is None or past.doc_ids is None else torch.cat([past.doc_ids, doc_ids], 1)
        rows = Past(torch.cat([past.values, x.detach()], 1), docs)
        first = 0 if depth is None else rows.values.shape[1] - depth - self.rewind
        self.rows[name] = rows.each(lambda t: t[:, first:])
        return past

    def _nothing(self, name: str, x: Tensor, doc_ids: Tensor | None) -> Past:
        depth = self.depths[name]
        n = 0 if depth is None else depth + self.rewind
        docs = None if doc_ids is None else torch.full_like(doc_ids[:, :1], NO_DOCUMENT).repeat(1, n)
        return Past(x.new_zeros(x.shape[0], n, x.shape[2]), docs)

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Row i becomes what row index[i] was."""
        self.rows = {name: past.each(lambda t: t[index]) for name, past in self.rows.items()}

    def take_back(self, n: int) -> None:
        """Forget the last n rows."""
        for name, past in self.rows.items():
            if self.depths[name] is None:
                self.rows[name] = past.each(lambda t: t[:, :-n])
                continue
            self.rows[name] = past.each(lambda t: t.roll(n, 1))
            self.rows[name].forget((slice(None), slice(n)))

    def clear(self, rows: Int[Tensor, " rows"]) -> None:
        """These sequences start anew."""
        if self.rows and len(rows) == len(next(iter(self.rows.values())).values):
            self.rows.clear()
            return
        for past in self.rows.values():
            past.forget(rows)


@dataclass(frozen=True)
class Draws:
    """The randomness of one step. Sequence i of a batch draws the same numbers whatever its neighbours are.

    `first` is the number of the batch's first sequence in the step, so that a step may be split over machines.
    """

    seed: int
    step: int
    first: int = 0

    def generator(self, purpose: str, sequence: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for one purpose and sequence."""
        return torch.Generator(device).manual_seed(self._seed(purpose, sequence))

    def chance(self, purpose: str, rate: float, counters: Int[Tensor, "batch *more"]) -> Bool[Tensor, "batch *more"]:
        """True with probability `rate`, decided by the sequence and the counter alone.

        For things that don't come in an order of their own, such as the active features of a token: what a generator
        would give them depends on how many are listed before.
        """
        keys = [self._key(purpose, index) for index in range(counters.shape[0])]
        key = torch.tensor(keys, device=counters.device).view(-1, *[1] * (counters.dim() - 1))
        return _mix(_mix(counters ^ key) + key) < int(rate * 2**32)

    def _seed(self, purpose: str, sequence: int) -> int:
        return (self._key(purpose, sequence) + (self.seed << 32)) % 2**63

    def _key(self, purpose: str, sequence: int) -> int:
        return crc32(f"{self.seed}/{self.step}/{self.first + sequence}/{purpose}".encode())

    def plus_normal(self, purpose: str, x: Float[Tensor, "batch *more d"], level: float) -> Tensor:
        """`x` plus normal noise of standard deviation `level`; on a GPU the noise is of the GPU's own generator."""
        if x.device.type == "cpu":
            keys = [self._seed(purpose, index) for index in range(x.shape[0])]
            return add_normal(x.reshape(-1, x.shape[-1]), level, keys).view(x.shape)
        noise = torch.empty_like(x)
        for index in range(x.shape[0]):
            noise[index].normal_(generator=self.generator(purpose, index, x.device))
        return x + level * noise

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1) in the shape of `like [batch, ...]`."""
        out = torch.empty_like(like)
        for index in range(like.shape[0]):
            out[index].uniform_(generator=self.generator(purpose, index, like.device))
        return out


def _mix(x: Tensor) -> Tensor:
    """32 bits from the lowest 32 of int64, each depending on all of them (the finaliser of MurmurHash3)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


class Tokens(NamedTuple):
    """A batch as every step of the encoder is given it."""

    target: Float[Tensor, "*tokens d_in"]
    """The vectors, in normalised units."""
    scale: Float[Tensor, "*tokens"] | None
    """What each token was multiplied by, where every token has its own."""
    mask: Bool[Tensor, "*tokens"] | None
    layout: Layout | None
    """None for flat input."""
    draws: Draws | None = None
    """The randomness of a training step; None outside training."""
    memory: Memory | None = None
    """What a stream remembers; None for whole sequences."""

    @property
    def training(self) -> bool:
        """Corruption, dropout and batch statistics are on."""
        return self.draws is not None

    @property
    def active(self) -> Bool[Tensor, " n"] | None:
        """The mask, one entry a row."""
        return None if self.mask is None else self.mask.reshape(-1)

    @property
    def places(self) -> Layout:
        """The layout, which parts that look at places can count on: they refuse flat input."""
        assert self.layout is not None, "parts that look at places refuse flat input"
        return self.layout

    def recall(self, name: str, x: Float[Tensor, "batch n width"]) -> Past | None:
        """What a stream's part called `name` was given before `x`, which is remembered; None for whole sequences."""
        if self.memory is None or self.layout is None:
            return None
        return self.memory.recall(name, x, self.layout.doc_ids)


def default_positions(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """`cumsum(mask) - 1`: padding on the left moves nothing."""
    return mask.long().cumsum(-1) - 1


def number_documents(doc_ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """0 for the first document of each sequence, one more wherever `doc_ids` change: a number that returns is new."""
    changes = doc_ids[:, 1:] != doc_ids[:, :-1]
    return torch.nn.functional.pad(changes.long().cumsum(1), (1, 0))


def zero_masked(x: Float[Tensor, "*tokens width"], mask: Bool[Tensor, "*tokens"] | None) -> Tensor:
    """`x` with masked tokens at zero, whatever they held (`x * mask` would keep a NaN)."""
    if mask is None or (mask.device.type == "cpu" and bool(mask.all())):
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        rows = x.reshape(-1, x.shape[-1])
        return centred_rows(rows, x.new_zeros(()).expand(x.shape[-1]), mask.reshape(-1)).view(x.shape)
    return torch.where(mask.unsqueeze(-1), x, 0)


def shifted(
    x: Float[Tensor, "batch pos width"], lag: int, layout: Layout | None, past: Past | None
) -> Float[Tensor, "batch pos width"]:
    """`x_{t - lag}` at t: from `past` before the first token, zero where another document was.

    `lag` may be negative (a look ahead), which only whole sequences allow.
    """
    n = x.shape[1]
    docs = None if layout is None else layout.doc_ids
    moved = _shift(x, lag, None if past is None else past.values)
    if docs is None or lag == 0:
        return moved
    before = None if past is None or past.doc_ids is None else past.doc_ids.unsqueeze(-1)
    there = _shift(docs.unsqueeze(-1) + 0, lag, before).squeeze(-1)
    inside = torch.arange(n, device=x.device) >= lag if past is None else torch.ones(n, dtype=torch.bool)
    same = (there == docs) & inside.to(x.device)
    return torch.where(same.unsqueeze(-1), moved, 0)


def _shift(x: Tensor, lag: int, before: Tensor | None) -> Tensor:
    n = x.shape[1]
    if lag == 0:
        return x
    if lag < 0:
        kept = x[:, -lag:]
        return torch.cat([kept, x.new_zeros(x.shape[0], n - kept.shape[1], x.shape[2])], 1)
    head = x.new_zeros(x.shape[0], min(lag, n), x.shape[2])
    if before is not None:
        head = before[:, before.shape[1] - lag : before.shape[1] - lag + min(lag, n)].to(x.dtype)
    return torch.cat([head, x[:, : max(n - lag, 0)]], 1)
