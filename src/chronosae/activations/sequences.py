"""Text -> whole contexts of tokens, in the order in which they are harvested: tokenised, packed, shuffled.

Packing, a source at a time:

    | B d0 d0 d0 B d1 d1 d1 | B d1 d1 B d2 d2 d2 d2 | B d2 ...        B = BOS, context = 8

Every context starts with BOS, every document inside one too; a document that doesn't fit goes on in the next context
under the same document id. No token of a document is lost, repeated or moved.

Shuffling happens here, among tokens, before any activation exists: what a resumed run must remember is small, and
whole sequences move while the tokens inside them never do.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.config import ActivationsConfig, UserError
from chronosae.corpora import Document, Mixture, hash64


class Encoder:
    """A Hugging Face tokenizer as the packer wants it.

    Text is never read as a special token: a document that spells `<s>` yields the ordinary tokens of those three
    characters (`split_special_tokens`), so no corpus can forge the start of a context or hide tokens from the mask.

    Args:
        tokenizer: a Hugging Face tokenizer; fast ones encode a batch in parallel.
        prepend_bos: start contexts and documents with BOS where the tokenizer has one.
    """

    def __init__(self, tokenizer: Any, prepend_bos: bool = True) -> None:
        self._tokenizer = tokenizer
        self.bos: int | None = tokenizer.bos_token_id if prepend_bos else None
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self.special_ids: tuple[int, ...] = tuple(sorted({i for i in ids if i is not None}))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, special tokens neither added nor recognised."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # documents longer than the model's context are the rule here
        )
        return encoded["input_ids"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides which tokens come out."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        rules = backend.to_str() if backend is not None else json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(f"{rules}\0{self.bos}\0{self.special_ids}".encode()).hexdigest()


def token_mask(
    tokens: Int[Tensor, "batch pos"], special_ids: Sequence[int], exclude_special: bool = True
) -> Bool[Tensor, "batch pos"]:
    """False at special tokens and at position 0, which is an attention sink with or without BOS; else True."""
    if not exclude_special:
        return torch.ones_like(tokens, dtype=torch.bool)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    for special in special_ids:
        mask &= tokens != special
    mask[:, 0] = False
    return mask


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
