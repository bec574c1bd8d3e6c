"""What fired and where documents lie, as flat lists: terms then cost what is active, not tokens x d_sae."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes, SparseCodes


class Active(NamedTuple):
    """One row an active code of an unmasked token, tokens ascending, features ascending within a token.

    `tokens` index the flattened batch; `values` are float64 and carry the gradient.
    """

    tokens: Int[Tensor, " n"]
    features: Int[Tensor, " n"]
    values: Float[Tensor, " n"]


def active_codes(codes: Codes, mask: Bool[Tensor, "*tokens"]) -> Active:
    """The codes that count: value != 0 at a token whose mask is True."""
    slots = codes.values.shape[-1]
    flat = ((codes.values != 0) & mask.unsqueeze(-1)).flatten().nonzero().squeeze(1)
    tokens = flat.div(slots, rounding_mode="floor")
    features = codes.indices.flatten()[flat] if isinstance(codes, SparseCodes) else flat - tokens * slots
    return Active(tokens, features, codes.values.flatten().index_select(0, flat).double())


def squares_by_feature(active: Active, d_sae: int) -> Float[Tensor, " d_sae"]:
    """`sum_t z_tf^2` over the active codes."""
    empty = torch.zeros(d_sae, dtype=active.values.dtype, device=active.values.device)
    return empty.index_add(0, active.features, active.values.square())


def count_fired(active: Active, d_sae: int) -> Int[Tensor, ""]:
    """How many features fired at least once; also when a value's square underflows to 0."""
    fired = torch.zeros(d_sae, dtype=torch.bool, device=active.features.device)
    return fired.index_fill_(0, active.features, True).sum()


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
