"""Documents -> token ids, without a single special token, and which ids are special."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


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
