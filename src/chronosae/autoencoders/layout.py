"""Where tokens stand: what a part that looks at other tokens must know about them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import centred_rows


class Layout(NamedTuple):
    """Mask, positions and documents of a batch.

    `positions` count unmasked tokens from 0. `doc_ids` number the documents of a sequence in order, whatever numbers
    the user gave them, so that two tokens are of one document just where they are equal; None when every sequence is
    one document.
    """

    mask: Bool[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    doc_ids: Int[Tensor, "batch pos"] | None


class Past(NamedTuple):
    """What came before the tokens at hand, oldest first; zeros where there was nothing."""

    values: Float[Tensor, "batch history width"]
    doc_ids: Int[Tensor, "batch history"] | None


def default_positions(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """`cumsum(mask) - 1`: padding on the left moves nothing."""
    return mask.long().cumsum(-1) - 1


def number_documents(doc_ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """0 for the first document of each sequence, one more wherever `doc_ids` change: a number that returns is new."""
    changes = doc_ids[:, 1:] != doc_ids[:, :-1]
    return torch.nn.functional.pad(changes.long().cumsum(1), (1, 0))


def zero_masked(x: Float[Tensor, "*tokens width"], mask: Bool[Tensor, "*tokens"] | None) -> Tensor:
    """`x` with masked tokens at zero, whatever they held (`x * mask` would keep a NaN)."""
    if mask is None or (mask.device.type == "cpu" and bool(mask.all())):
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        rows = x.reshape(-1, x.shape[-1])
        return centred_rows(rows, x.new_zeros(()).expand(x.shape[-1]), mask.reshape(-1)).view(x.shape)
    return torch.where(mask.unsqueeze(-1), x, 0)


def shifted(
    x: Float[Tensor, "batch pos width"], lag: int, layout: Layout | None, past: Past | None
) -> Float[Tensor, "batch pos width"]:
    """`x_{t - lag}` at t: from `past` before the first token, zero where another document was.

    `lag` may be negative (a look ahead), which only whole sequences allow.
    """
    n = x.shape[1]
    docs = None if layout is None else layout.doc_ids
    moved = _shift(x, lag, None if past is None else past.values)
    if docs is None or lag == 0:
        return moved
    before = None if past is None or past.doc_ids is None else past.doc_ids.unsqueeze(-1)
    there = _shift(docs.unsqueeze(-1) + 0, lag, before).squeeze(-1)
    inside = torch.arange(n, device=x.device) >= lag if past is None else torch.ones(n, dtype=torch.bool)
    same = (there == docs) & inside.to(x.device)
    return torch.where(same.unsqueeze(-1), moved, 0)


def _shift(x: Tensor, lag: int, before: Tensor | None) -> Tensor:
    n = x.shape[1]
    if lag == 0:
        return x
    if lag < 0:
        kept = x[:, -lag:]
        return torch.cat([kept, x.new_zeros(x.shape[0], n - kept.shape[1], x.shape[2])], 1)
    head = x.new_zeros(x.shape[0], min(lag, n), x.shape[2])
    if before is not None:
        head = before[:, before.shape[1] - lag : before.shape[1] - lag + min(lag, n)].to(x.dtype)
    return torch.cat([head, x[:, : max(n - lag, 0)]], 1)
