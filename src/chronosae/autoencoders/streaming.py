"""Encoding while a sequence grows: the generation-time path of every causal autoencoder."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.parts.position_masks import PositionMask
from chronosae.autoencoders.spec import Spec
from chronosae.autoencoders.tokens import NO_DOCUMENT, Layout, Memory, Tokens

# No token counted, in no document; the first one is number 0.
_START = [[0, NO_DOCUMENT, -1]]


@runtime_checkable
class Streamable(Protocol):
    """What a stream needs of an autoencoder (see there)."""

    cfg: Spec
    position_mask: PositionMask | None

    @property
    def causal(self) -> bool: ...

    @property
    def b_dec(self) -> Tensor: ...

    def memory_depths(self) -> dict[str, int | None]: ...

    def normalise(
        self, acts: Float[Tensor, "*tokens d_in"]
    ) -> tuple[Float[Tensor, "*tokens d_in"], Float[Tensor, "*tokens"] | None]: ...

    def encode_tokens(self, tokens: Tokens) -> tuple[Any, Codes]: ...


class Stream:
    """The state of sequences that are encoded piece by piece. Made by `Autoencoder.stream`."""

    def __init__(self, sae: Streamable, batch_size: int, rewind: int) -> None:
        if not sae.causal:
            raise ValueError(
                f"a {sae.cfg.preset} autoencoder that looks ahead can't stream: its codes need later tokens"
            )
        if batch_size < 1 or rewind < 0:
            raise ValueError(f"batch_size must be positive and rewind at least 0, got {batch_size} and {rewind}")
        self.sae, self.rewind = sae, rewind
        self.memory = Memory(sae.memory_depths(), rewind)
        self.length = 0
        """Tokens taken in since all sequences started, masked ones included."""
        # A row for each token that could be the last one after a `crop`: unmasked tokens so far, document as given,
        # document as numbered. One row more than may be taken back; fewer at first.
        self._ends = torch.tensor(_START, device=sae.b_dec.device).repeat(batch_size, 1, 1)

    @property
    def batch_size(self) -> int:
        """Sequences side by side."""
        return self._ends.shape[0]

    @torch.no_grad()
    def step(
        self,
        x: Float[Tensor, "batch n d_in"],
        mask: Bool[Tensor, "batch n"] | None = None,
        *,
        doc_ids: Int[Tensor, "batch n"] | None = None,
    ) -> Codes:
        """Codes of the next n tokens of every sequence (a prompt goes in at once; then n = 1).

        Raises:
            ValueError: another batch size than the state's, a wrong width, or a position that the position mask
                doesn't know; the state is then as it was.
        """
        if x.dim() != 3 or x.shape[0] != self.batch_size:
            raise ValueError(
                f"this stream holds {self.batch_size} sequences and takes [batch, n, d_in], got {[*x.shape]}"
            )
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        ends = self._advance(mask, doc_ids)
        layout = Layout(mask, (ends[..., 0] - 1).clamp_min(0), None if doc_ids is None else ends[..., 2])
        target, scale = self.sae.normalise(x)
        if self.sae.position_mask is not None:
            self.sae.position_mask.rows(layout.positions)
        codes = self.sae.encode_tokens(Tokens(target, scale, mask, layout, memory=self.memory))[1]
        self._ends = torch.cat([self._ends, ends], 1)[:, -(self.rewind + 1) :]
        self.length += x.shape[1]
        return codes

    def _advance(self, mask: Tensor, doc_ids: Tensor | None) -> Int[Tensor, "batch n 3"]:
        """The rows of `_ends` that these tokens add."""
        last = self._ends[:, -1:]
        counts = last[..., 0] + mask.long().cumsum(1)
        if doc_ids is None:
            return torch.stack([counts, *last[..., 1:].expand(-1, mask.shape[1], -1).unbind(-1)], -1)
        given = torch.cat([last[..., 1], doc_ids.long()], 1)
        numbers = last[..., 2] + (given[:, 1:] != given[:, :-1]).long().cumsum(1)
        return torch.stack([counts, given[:, 1:], numbers], -1)

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Row i becomes what row index[i] was: for beams, which may also grow or shrink the batch."""
        self.memory.reorder(index)
        self._ends = self._ends[index]

    def crop(self, n: int) -> None:
        """Keep the first n tokens, as if the later ones had never come.

        Raises:
            ValueError: n isn't between `length - rewind` and `length`, or a sequence was reset since.
        """
        back, most = self.length - n, self._ends.shape[1] - 1
        if not 0 <= back <= most:
            raise ValueError(
                f"can't crop {self.length} tokens to {n}: this stream can take back {most};"
                " ask for more with sae.stream(..., rewind=N), and crop before a reset"
            )
        if back == 0:
            return
        self.memory.take_back(back)
        self._ends = self._ends[:, :-back]
        self.length = n

    def reset(self, rows: Int[Tensor, " rows"] | None = None) -> None:
        """Start these sequences (all by default) anew; the others go on. What came before can't be cropped to."""
        if rows is None:
            self.length, rows = 0, torch.arange(self.batch_size, device=self._ends.device)
        self.memory.clear(rows)
        self._ends = self._ends[:, -1:].clone()
        self._ends[rows] = torch.tensor(_START, device=self._ends.device)
