"""Text as whole contexts: each holds (a piece of) one document, all of a document is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from chronosae.config import UserError
from chronosae.corpora import open_source
from chronosae.evals.autointerp.options import AutointerpOptions
from chronosae.evals.texts import TokenRows
from chronosae.evals.workbench import Workbench

# Documents tokenised at once.
AT_ONCE = 64


@dataclass(frozen=True)
class Contexts:
    """Token rows and the text of each."""

    texts: list[str]
    rows: TokenRows
    first: Int[Tensor, " rows"]
    """Position of the first token of the text: 1 behind a BOS."""
    short: bool
    """The source ended before there were as many tokens as asked."""

    def text(self, row: int, start: int, end: int) -> tuple[str, list[tuple[int, int]]]:
        """The text of the tokens `start` to `end - 1` of a row, and the characters of each of them in it."""
        spans = self.rows.offsets[row, start:end].tolist()
        begin, stop = min(a for a, _ in spans), max(b for _, b in spans)
        return self.texts[row][begin:stop], [(a - begin, b - begin) for a, b in spans]


def read_contexts(options: AutointerpOptions, bench: Workbench) -> Contexts:
    """Contexts of at most `options.context` tokens until there are `options.tokens`.

    What is shorter than an example is left out: the ends of documents.

    Raises:
        UserError: the source can't be read, or holds no document as long as an example.
    """
    context = min(options.context, bench.subject.max_context)
    bench.read(["."], context)  # refuses a tokenizer that can't tell where its tokens stand
    tokenizer = bench.subject.tokenizer
    room = context - int(bench.prepend_bos and tokenizer.bos_token_id is not None)
    source = open_source(options.source, "evals.autointerp.data")
    pieces: list[str] = []
    found = 0
    for text, n in _pieces(source.documents(), tokenizer, room):
        if found >= options.tokens:
            break
        if n >= options.window:
            pieces.append(text)
            found += n
    rows = bench.read(pieces, context)
    # A BOS stands for no characters; a token of the text does.
    has_text = rows.offsets[..., 1] > rows.offsets[..., 0]
    first = has_text.long().argmax(1) if pieces else torch.zeros(0, dtype=torch.long)
    # Read alone, a piece may have a token more or fewer than inside its document.
    whole = (rows.lengths - first >= options.window).nonzero().squeeze(1)
    if not len(whole):
        raise UserError(
            f"evals.autointerp.data: {options.data} holds no document of {options.window} tokens; give longer texts or"
            " lower evals.autointerp.buffer"
        )
    return Contexts([pieces[i] for i in whole.tolist()], rows.rows(whole), first[whole], found < options.tokens)


def _pieces(documents: Iterator[str], tokenizer: Any, room: int) -> Iterator[tuple[str, int]]:
    """Consecutive pieces of `room` tokens of every document, and the tokens of each."""
    texts = (text for text in documents if text and not text.isspace())
    while batch := list(islice(texts, AT_ONCE)):
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for text, offsets in zip(batch, encoded["offset_mapping"], strict=True):
            for start in range(0, len(offsets), room):
                part = offsets[start : start + room]
                yield text[part[0][0] : part[-1][1]], len(part)
