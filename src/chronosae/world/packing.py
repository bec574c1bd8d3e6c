"""Training rows: documents of the curriculum, packed into contexts of one length, with a weight for every token."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chronosae.world.corpus import Document, make_document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FACTS = {"encyclopaedia": 0.14, "quiz": 0.12, "spelling": 0.04}
CURRICULUM: tuple[tuple[float, dict[str, float]], ...] = (
    (0.00, {**_FACTS, "prose": 0.34, "lookup": 0.28, "named": 0.08}),
    (0.25, {**_FACTS, "prose": 0.30, "lookup": 0.22, "named": 0.12, "open_book": 0.06}),
    (0.45, {**_FACTS, "prose": 0.30, "lookup": 0.12, "named": 0.10, "open_book": 0.08, "letters": 0.10}),
    (0.65, {**_FACTS, "prose": 0.32, "lookup": 0.05, "named": 0.05, "open_book": 0.06, "letters": 0.22}),
    (1.00, {**_FACTS, "prose": 0.44, "lookup": 0.01, "named": 0.01, "open_book": 0.02, "letters": 0.22}),
)
"""Share of documents by progress of training (0 to 1), interpolated between the rows."""

PROSE: dict[str, float] = {"story": 0.36, "dialogue": 0.22, "letter": 0.10, "report": 0.20, "form": 0.12}
LABEL_WEIGHTS: dict[str, float] = {"answer_letter": 8.0, "fact_value": 2.0, "first_letter": 2.0, "chain_effect": 2.0}
"""Loss weights of the tokens that carry an answer; every other token weighs 1."""


def mixture_at(progress: float) -> dict[str, float]:
    """The document mixture at a point of the curriculum."""
    points = [point for point, _ in CURRICULUM]
    i = min(max(bisect_right(points, progress), 1), len(points) - 1)
    (left, a), (right, b) = CURRICULUM[i - 1], CURRICULUM[i]
    t = min(1.0, (progress - left) / (right - left))
    mixed = {k: (1 - t) * a.get(k, 0.0) + t * b.get(k, 0.0) for k in {**a, **b}}
    prose = mixed.pop("prose")
    return {**{k: prose * share for k, share in PROSE.items()}, **mixed}


def encode(documents: list[Document], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[list[int], list[float]]]:
    """Token ids (with ``<bos>`` and ``<eos>``) and loss weights of each document."""
    eos = tokenizer.eos_token_id
    encodings = tokenizer.backend_tokenizer.encode_batch([d.text for d in documents])
    for document, encoding in zip(documents, encodings, strict=True):
        weights = [1.0] * len(encoding.ids)
        for a in document.annotations:
            weight = LABEL_WEIGHTS.get(a.label)
            if weight is not None:
                for i, (start, end) in enumerate(encoding.offsets):
                    if start < a.end and end > a.start:
                        weights[i] = weight
        yield [*encoding.ids, eos], [*weights, 1.0]  # type: ignore[list-item]


class Packer:
    """Fills rows of ``context`` tokens with documents in their order; a row always starts with a document's start.

    The document that overflows a row is cut there: generated text costs nothing, and rows that start with ``<bos>``
    are what every later use of the model looks like.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, context: int, seed: int, chunk: int = 128) -> None:
        self.tokenizer, self.context, self.seed, self.chunk = tokenizer, context, seed, chunk
        self.next_document = 0
        self._ready: list[tuple[list[int], list[float]]] = []

    def _pop(self, progress: float) -> tuple[list[int], list[float]]:
        if not self._ready:
            mixture = mixture_at(progress)
            numbers = range(self.next_document, self.next_document + self.chunk)
            documents = [make_document("train", i, seed=self.seed, mixture=mixture) for i in numbers]
            self.next_document += self.chunk
            self._ready = list(encode(documents, self.tokenizer))[::-1]
        return self._ready.pop()

    def rows(self, n: int, progress: float) -> tuple[list[list[int]], list[list[float]]]:
        """``n`` rows of ids and weights, each ``context`` long."""
        all_ids: list[list[int]] = []
        all_weights: list[list[float]] = []
        for _ in range(n):
            ids: list[int] = []
            weights: list[float] = []
            while len(ids) < self.context:
                more_ids, more_weights = self._pop(progress)
                ids += more_ids
                weights += more_weights
            all_ids.append(ids[: self.context])
            all_weights.append(weights[: self.context])
        return all_ids, all_weights
