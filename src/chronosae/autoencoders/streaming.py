"""Encoding while a sequence grows: the generation-time path of every causal autoencoder."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.layout import Layout, Past

if TYPE_CHECKING:
    from chronosae.autoencoders.autoencoder import Autoencoder

# No document has this number, so nothing is ever looked up in a past that wasn't there.
NO_DOCUMENT = -(2**31)


class Memory:
    """The last rows that each part has been given, by the part's name; oldest first.

    Arguments:
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
        values = torch.cat([past.values, x.detach()], 1)
        docs = None if doc_ids is None or past.doc_ids is None else torch.cat([past.doc_ids, doc_ids], 1)
        kept = values.shape[1] if depth is None else depth + self.rewind
        first = values.shape[1] - kept
        self.rows[name] = Past(values[:, first:], None if docs is None else docs[:, first:])
        return past

    def _nothing(self, name: str, x: Tensor, doc_ids: Tensor | None) -> Past:
        n = (self.depths[name] or 0) + (0 if self.depths[name] is None else self.rewind)
        docs = None if doc_ids is None else torch.full_like(doc_ids[:, :1], NO_DOCUMENT).repeat(1, n)
        return Past(x.new_zeros(x.shape[0], n, x.shape[2]), docs)

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Row i becomes what row index[i] was."""
        for name, (values, docs) in self.rows.items():
            self.rows[name] = Past(values[index], None if docs is None else docs[index])

    def take_back(self, n: int) -> None:
        """Forget the last n rows."""
        for name, (values, docs) in self.rows.items():
            if self.depths[name] is None:
                self.rows[name] = Past(values[:, :-n], None if docs is None else docs[:, :-n])
                continue
            empty = torch.zeros_like(values[:, :n])
            no_docs = None if docs is None else torch.full_like(docs[:, :n], NO_DOCUMENT)
            kept_docs = None if docs is None or no_docs is None else torch.cat([no_docs, docs[:, :-n]], 1)
            self.rows[name] = Past(torch.cat([empty, values[:, :-n]], 1), kept_docs)

    def clear(self, rows: Int[Tensor, " rows"]) -> None:
        """These sequences start anew."""
        for values, docs in self.rows.values():
            values[rows] = 0
            if docs is not None:
                docs[rows] = NO_DOCUMENT


class Stream:
    """The state of sequences that are encoded piece by piece. Made by `Autoencoder.stream`."""

    def __init__(self, sae: "Autoencoder", batch_size: int, rewind: int) -> None:
        if not sae.causal:
            raise ValueError(
                f"a {sae.cfg.preset} autoencoder that looks ahead can't stream: its codes need later tokens"
            )
        if batch_size < 1 or rewind < 0:
            raise ValueError(f"batch_size must be positive and rewind at least 0, got {batch_size} and {rewind}")
        self.sae, self.rewind = sae, rewind
        device = sae.b_dec.device
        self.memory = Memory(sae.memory_depths(), rewind)
        self.length = 0
        """Tokens taken in, masked ones included."""
        self._rewindable = 0
        self._counted = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._recent_mask = torch.zeros(batch_size, rewind, dtype=torch.int64, device=device)

    @property
    def batch_size(self) -> int:
        """Sequences side by side."""
        return self._counted.shape[0]

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
            ValueError: another batch size than the state's, or a wrong width.
        """
        if x.dim() != 3 or x.shape[0] != self.batch_size:
            raise ValueError(
                f"this stream holds {self.batch_size} sequences and takes [batch, n, d_in], got {[*x.shape]}"
            )
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        counts = mask.long().cumsum(-1)
        layout = Layout(mask, self._counted.unsqueeze(-1) + counts - 1, doc_ids)
        target, scale = self.sae.normalise(x)
        codes = self.sae._encode(target, scale, mask, layout, memory=self.memory)[1]
        self._counted = self._counted + mask.sum(-1)
        if self.rewind:
            self._recent_mask = torch.cat([self._recent_mask, mask.long()], 1)[:, -self.rewind :]
        self.length += x.shape[1]
        self._rewindable = min(self.rewind, self._rewindable + x.shape[1])
        return codes

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Row i becomes what row index[i] was: for beams, which may also grow or shrink the batch."""
        self.memory.reorder(index)
        self._counted, self._recent_mask = self._counted[index], self._recent_mask[index]

    def crop(self, n: int) -> None:
        """Keep the first n tokens, as if the later ones had never come.

        Raises:
            ValueError: n isn't between `length - rewind` and `length`.
        """
        back = self.length - n
        if not 0 <= back <= self._rewindable:
            raise ValueError(
                f"can't crop {self.length} tokens to {n}: this stream can take back {self._rewindable};"
                " ask for more with sae.stream(..., rewind=N)"
            )
        if back == 0:
            return
        self.memory.take_back(back)
        self._counted = self._counted - self._recent_mask[:, -back:].sum(-1)
        self._recent_mask = torch.cat([torch.zeros_like(self._recent_mask[:, :back]), self._recent_mask[:, :-back]], 1)
        self.length, self._rewindable = n, self._rewindable - back

    def reset(self, rows: Int[Tensor, " rows"] | None = None) -> None:
        """Start these sequences (all by default) anew; the others go on."""
        rows = torch.arange(self.batch_size, device=self._counted.device) if rows is None else rows
        self.memory.clear(rows)
        self._counted[rows] = 0
        self._recent_mask[rows] = 0
