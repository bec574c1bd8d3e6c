"""Token sequences of a mixture in the order in which they are harvested: packed a source at a time, then shuffled.

Shuffling happens here, among tokens, before any activation exists: what a resumed run must remember is small, and
whole sequences move while the tokens inside them never do.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.activations.packing import Packed, Packer, stack_state, unstack_state
from chronosae.activations.tokenise import Encoder, token_mask
from chronosae.config import ActivationsConfig, UserError
from chronosae.corpora import Document, Mixture, hash64

# Documents are tokenised together until there are this many of them or of their characters: enough for a fast
# tokenizer's threads, few enough that no batch waits long for them.
_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 1 << 16
_SHUFFLE = 0x5AFE  # keeps this use of the seed apart from the mixture's


@dataclass(frozen=True)
class TokenBatch:
    """Whole contexts of tokens, before a subject has read them."""

    tokens: Int[Tensor, "batch pos"]
    doc_ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    source: tuple[str, ...]

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Unmasked tokens so far, from 0; -1 before the first one."""
        return self.mask.long().cumsum(1) - 1

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: slice) -> "TokenBatch":
        return TokenBatch(self.tokens[rows], self.doc_ids[rows], self.mask[rows], self.source[rows])


class Sequences:
    """Contexts drawn from a mixture through a shuffle window.

    Args:
        mixture: where the documents come from; each source is packed by itself, so a sequence has one source.
        encoder: tokenizer.
        cfg: context length, masking and the size of the window.
        seed: of the shuffle.
        shuffle: False keeps the order of packing.
        one_pass: end when every source has been read through at least once (others may repeat meanwhile, so that the
            weights hold).
    """

    def __init__(
        self,
        mixture: Mixture,
        encoder: Encoder,
        cfg: ActivationsConfig,
        *,
        seed: int = 0,
        shuffle: bool = True,
        one_pass: bool = False,
    ) -> None:
        self.mixture, self._encoder, self._cfg, self._seed, self._one_pass = mixture, encoder, cfg, seed, one_pass
        self._names = mixture.names
        self._number = {name: i for i, name in enumerate(self._names)}
        self._packers = [Packer(cfg.context, encoder.bos, i) for i in range(len(self._names))]
        self._size = cfg.shuffle_buffer if shuffle else 1
        self._window: list[Packed] = []
        self._queue: deque[Packed] = deque()
        self._drawn = 0
        self._documents = mixture.documents()

    def take(self, n: int) -> TokenBatch:
        """The next `n` contexts; fewer only when a mixture that doesn't repeat has ended.

        Raises:
            UserError: a source holds less than one context.
        """
        drawn = [packed for packed in (self._draw() for _ in range(n)) if packed is not None]
        return self._batch(drawn)

    def _batch(self, contexts: list[Packed]) -> TokenBatch:
        width = self._cfg.context
        tokens = np.stack([c.tokens for c in contexts]) if contexts else np.empty((0, width), np.int32)
        doc_ids = np.stack([c.doc_ids for c in contexts]) if contexts else np.empty((0, width), np.int64)
        ids = torch.from_numpy(tokens.astype(np.int64))
        mask = token_mask(ids, self._encoder.special_ids, self._cfg.exclude_special)
        return TokenBatch(ids, torch.from_numpy(doc_ids), mask, tuple(self._names[c.source] for c in contexts))

    def _draw(self) -> Packed | None:
        while len(self._window) < self._size and (self._queue or self._pack_more()):
            if self._queue:
                self._window.append(self._queue.popleft())
        if not self._window:
            return None
        i = hash64(self._seed, _SHUFFLE, self._drawn) % len(self._window)
        self._drawn += 1
        self._window[i], self._window[-1] = self._window[-1], self._window[i]
        return self._window.pop()

    def _pack_more(self) -> bool:
        """Tokenise and pack the next documents; False when there are none."""
        documents = self._next_documents()
        for document, ids in zip(documents, self._encoder([d.text for d in documents]), strict=True):
            if document.epoch:
                self._require_context(document.source)
            packer = self._packers[self._number[document.source]]
            self._queue.extend(packer.feed(ids, document.serial))
        if not documents and self._one_pass:
            for name in self._names:
                self._require_context(name)
        return bool(documents)

    def _next_documents(self) -> list[Document]:
        documents: list[Document] = []
        characters = 0
        while len(documents) < _BATCH_DOCUMENTS and characters < _BATCH_CHARACTERS and not self._pass_ended():
            document = next(self._documents, None)
            if document is None or self._pass_ended():
                break
            documents.append(document)
            characters += len(document.text)
            if document.epoch and not self._packers[self._number[document.source]].emitted:
                break  # pack and decide first: a source without one context must not be read for ever
        return documents

    def _pass_ended(self) -> bool:
        return self._one_pass and min(self.mixture.epochs) >= 1

    def _require_context(self, source: str) -> None:
        packer = self._packers[self._number[source]]
        if not packer.emitted:
            raise UserError(
                f"corpus {source!r} has {packer.fed} tokens, fewer than one context of {self._cfg.context};"
                " give more text or a smaller activations.context"
            )

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The place now; the result makes its `state_dict`, now or when more has been taken.

        Contexts never change, so lists of them are enough; stacking them takes a hundred times as long.
        """
        mixture, packers = self.mixture.state_dict(), [packer.state_dict() for packer in self._packers]
        window, queue, drawn, width = list(self._window), list(self._queue), self._drawn, self._cfg.context
        return lambda: {
            "mixture": mixture,
            "packers": packers,
            "window": stack_state(window, width),
            "queue": stack_state(queue, width),
            "drawn": drawn,
        }

    def state_dict(self) -> dict[str, Any]:
        """The place: tensors and plain data, exact to the next context."""
        return self.bookmark()()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            UserError: the state belongs to other sources or another context length.
        """
        self.mixture.load_state_dict(state["mixture"])
        if state["window"]["tokens"].shape[1] != self._cfg.context:
            raise UserError(
                f"saved data order has contexts of {state['window']['tokens'].shape[1]} tokens, this configuration"
                f" {self._cfg.context}"
            )
        for packer, packer_state in zip(self._packers, state["packers"], strict=True):
            packer.load_state_dict(packer_state)
        self._window, self._queue = unstack_state(state["window"]), deque(unstack_state(state["queue"]))
        self._drawn = state["drawn"]
        self._documents = self.mixture.documents()
