"""Unmasked tokens in order, and where the document of each begins and ends."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Spans(NamedTuple):
    """One row an unmasked token, in reading order; its row number is the token's rank.

    `tokens` index the flattened batch. A document's unmasked tokens have consecutive ranks: those from `start` up to
    but not including `end`.
    """

    tokens: Int[Tensor, " n"]
    start: Int[Tensor, " n"]
    end: Int[Tensor, " n"]


def document_spans(mask: Bool[Tensor, "batch pos"], doc_ids: Int[Tensor, "batch pos"]) -> Spans:
    """Ranks of unmasked tokens and the span of ranks of the document that each belongs to.

    A document is a run of equal `doc_ids` in one sequence; masked tokens inside it take no rank and do not end it.
    """
    opens = torch.ones_like(mask)
    opens[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    tokens = mask.flatten().nonzero().squeeze(1)
    document = opens.flatten().cumsum(0)[tokens]
    _, inverse, sizes = torch.unique_consecutive(document, return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0)
    return Spans(tokens, (ends - sizes)[inverse], ends[inverse])
