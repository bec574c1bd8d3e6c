"""Texts as padded token rows, with where each token stands in its text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.activations import token_mask
from chronosae.config import UserError


@dataclass(frozen=True)
class TokenRows:
    """One row a text: BOS where the tokenizer has one, the text, padding on the right."""

    tokens: Int[Tensor, "rows pos"]
    real: Bool[Tensor, "rows pos"]
    """What the subject attends to: everything but padding."""
    mask: Bool[Tensor, "rows pos"]
    """What an autoencoder sees: everything real but special tokens and the first position."""
    offsets: Int[Tensor, "rows pos 2"]
    """First and one past the last character of each token in its text; (0, 0) where a token has none."""
    truncated: Bool[Tensor, " rows"]
    """The text went on beyond the context."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> Int[Tensor, " rows"]:
        """Real tokens of each row."""
        return self.real.sum(1)

    def rows(self, which: Int[Tensor, " n"]) -> "TokenRows":
        """Some rows, in this order, without the padding that none of them needs."""
        width = int(self.lengths[which].max()) if len(which) else 0
        return TokenRows(
            self.tokens[which, :width],
            self.real[which, :width],
            self.mask[which, :width],
            self.offsets[which, :width],
            self.truncated[which],
        )

    def showing(self, mask: Bool[Tensor, "rows pos"]) -> "TokenRows":
        """The same rows with another autoencoder mask."""
        return replace(self, mask=mask)

    def sha256(self) -> str:
        """Hash of what the subject reads and what is masked."""
        digest = hashlib.sha256(repr(tuple(self.tokens.shape)).encode())
        for part in (self.tokens.masked_fill(~self.real, 0).long(), self.real, self.mask):
            digest.update(part.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def span(self, row: int, start: int, end: int) -> list[int]:
        """Positions of the tokens of `row` that overlap the characters `start` to `end`; empty beyond the context."""
        first, last = self.offsets[row].unbind(-1)
        inside = (first < end) & (last > start) & (last > first) & self.real[row]
        return inside.nonzero().squeeze(1).tolist()


def token_rows(
    tokenizer: Any,
    texts: Sequence[str],
    context: int,
    *,
    prepend_bos: bool = True,
    exclude_special: bool = True,
) -> TokenRows:
    """Texts as rows of at most `context` tokens; what is longer is cut at the end.

    Text is never read as a special token. The padding token's id is 0 where the tokenizer has none; nothing depends
    on it.

    Raises:
        UserError: the tokenizer can't tell where its tokens stand in the text (a slow one).
    """
    bos = [tokenizer.bos_token_id] if prepend_bos and tokenizer.bos_token_id is not None else []
    found, places = _encoded(tokenizer, texts)
    room = context - len(bos)
    ids = [bos + row[:room] for row in found]
    spans = [[(0, 0)] * len(bos) + [tuple(pair) for pair in row[:room]] for row in places]
    width = max((len(row) for row in ids), default=0)
    tokens = torch.full((len(ids), width), tokenizer.pad_token_id or 0, dtype=torch.long)
    real = torch.zeros(len(ids), width, dtype=torch.bool)
    offsets = torch.zeros(len(ids), width, 2, dtype=torch.long)
    for i, (row, pairs) in enumerate(zip(ids, spans, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        real[i, : len(row)] = True
        if pairs:
            offsets[i, : len(row)] = torch.tensor(pairs, dtype=torch.long)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    mask = token_mask(tokens, sorted(special), exclude_special) & real if width else real
    truncated = torch.tensor([len(row) > room for row in found], dtype=torch.bool)
    return TokenRows(tokens, real, mask, offsets, truncated)


def _encoded(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Token ids of each text, no special ones, and the characters that each token stands for."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "this evaluation needs a fast tokenizer (tokenizer.json), which tells where tokens stand in the text;"
            " give one with --set subject.tokenizer=FOLDER"
        )
    if not texts:  # a tokenizer can't read none
        return [], []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return encoded["input_ids"], encoded["offset_mapping"]
