"""Documents -> whole contexts, back to back.

    | B d0 d0 d0 B d1 d1 d1 | B d1 d1 B d2 d2 d2 d2 | B d2 ...        B = BOS, context = 8

Every context starts with BOS, every document inside one too; a document that doesn't fit goes on in the next context
under the same document id. No token of a document is lost, repeated or moved.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Packed:
    """One context: tokens int32 [context], doc_ids int64 [context], the number of its source."""

    tokens: np.ndarray
    doc_ids: np.ndarray
    source: int


class Packer:
    """Packs the documents of one source; what doesn't fill a context waits for the next document.

    Args:
        context: tokens a context, BOS included; at least 2.
        bos: token that starts contexts and documents, or None.
        source: number of the source, copied into every context.
    """

    def __init__(self, context: int, bos: int | None, source: int = 0) -> None:
        assert context >= 2
        self._context, self._bos, self._source = context, bos, source
        self._tokens: list[int] = []
        self._doc_ids: list[int] = []
        self.emitted = 0
        self.fed = 0

    def feed(self, ids: list[int], doc_id: int) -> list[Packed]:
        """The contexts that a document completes; a document without tokens leaves no trace."""
        if not ids:
            return []
        self.fed += len(ids)
        full: list[Packed] = []
        self._start(doc_id)
        taken = 0
        while True:
            room = self._context - len(self._tokens)
            piece = ids[taken : taken + room]
            self._tokens += piece
            self._doc_ids += [doc_id] * len(piece)
            taken += len(piece)
            if len(self._tokens) < self._context:
                return full
            full.append(self._emit())
            if taken == len(ids):
                return full
            self._start(doc_id)

    def _start(self, doc_id: int) -> None:
        if self._bos is not None:
            # With one slot left, this BOS ends a context, and the document's first token opens the next one after
            # a BOS of its own (`feed` emits and starts again).
            self._tokens.append(self._bos)
            self._doc_ids.append(doc_id)

    def _emit(self) -> Packed:
        packed = Packed(np.array(self._tokens, np.int32), np.array(self._doc_ids, np.int64), self._source)
        self._tokens, self._doc_ids = [], []
        self.emitted += 1
        return packed

    def state_dict(self) -> dict[str, Any]:
        """The unfinished context and the counts."""
        return {
            "tokens": list(self._tokens),
            "doc_ids": list(self._doc_ids),
            "emitted": self.emitted,
            "fed": self.fed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._tokens, self._doc_ids = list(state["tokens"]), list(state["doc_ids"])
        self.emitted, self.fed = state["emitted"], state["fed"]


def stack_state(contexts: list[Packed], context: int) -> dict[str, torch.Tensor]:
    """Contexts as three tensors, for a saved state."""
    n = len(contexts)
    tokens, doc_ids = np.empty((n, context), np.int32), np.empty((n, context), np.int64)
    for row, packed in enumerate(contexts):
        tokens[row], doc_ids[row] = packed.tokens, packed.doc_ids
    source = torch.tensor([packed.source for packed in contexts], dtype=torch.int64)
    return {"tokens": torch.from_numpy(tokens), "doc_ids": torch.from_numpy(doc_ids), "source": source}


def unstack_state(state: dict[str, torch.Tensor]) -> list[Packed]:
    """The contexts that `stack_state` made tensors of."""
    tokens, doc_ids = state["tokens"].cpu().numpy().astype(np.int32), state["doc_ids"].cpu().numpy().astype(np.int64)
    return [Packed(t, d, int(s)) for t, d, s in zip(tokens, doc_ids, state["source"].tolist(), strict=True)]
