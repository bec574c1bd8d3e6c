"""Tokens with the active features of the positions before them: what lagged statistics are counted on.

Shapes: n target tokens, w lags (lag l = 1..w at column l - 1), k slots.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes, Draws, SparseCodes
from chronosae.kernels import Firings, gather_history, most_active, same_document

EMPTY = -1
"""Source of a slot or entry that holds no pair of features."""


@dataclass(frozen=True)
class History:
    """Target tokens and what fired at them and 1..w positions earlier; a value of 0 means an unused slot.

    `valid[t, l - 1]`: the position l before t exists, in the same sequence and document, and is unmasked. Values
    at invalid positions are 0.
    """

    features: Int[Tensor, "n k"]
    values: Float[Tensor, "n k"]
    past_features: Int[Tensor, "n w k"]
    past_values: Float[Tensor, "n w k"]
    valid: Bool[Tensor, "n w"]

    def firings(self) -> Firings:
        """The same as kernels take it."""
        return Firings(self.features, self.values, self.past_features, self.past_values)

    def pieces(self, size: int) -> Iterator["History"]:
        """The same targets, at most `size` at a time."""
        for start in range(0, len(self.valid), size):
            part = slice(start, start + size)
            yield History(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


def as_slots(codes: Codes, max_active: int | None = None) -> SparseCodes:
    """Codes `[batch, pos, ...]` as slots; tokens with more than `max_active` active features keep their largest.

    Raises:
        ValueError: flat codes, which have no position axis.
    """
    if codes.values.ndim != 3:
        raise ValueError(f"lagged statistics need codes of [batch, pos, ...]; got {[*codes.values.shape]}")
    widest = max(most_active(codes.values), 1)
    slots = widest if max_active is None else min(widest, max_active)
    if isinstance(codes, SparseCodes) and codes.values.shape[-1] <= slots:
        return codes
    chosen = codes.values.abs().topk(slots, dim=-1).indices
    values = codes.values.gather(-1, chosen)
    features = codes.indices.gather(-1, chosen) if isinstance(codes, SparseCodes) else chosen
    return SparseCodes(
        values=values, indices=torch.where(values != 0, features, 0), n_features=codes.d_sae, scale=codes.scale
    )


def sample_tokens(mask: Bool[Tensor, "batch pos"], n: int | None, seed: int, step: int) -> Int[Tensor, "chosen 2"]:
    """(row, position) of at most `n` unmasked tokens, each equally likely; a function of (seed, step) and the mask."""
    tokens = mask.nonzero()
    if n is None or len(tokens) <= n:
        return tokens
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0x2545F4914F6CDD1D) % 2**63)
    chosen = torch.rand(len(tokens), generator=generator, dtype=torch.float64).topk(n).indices.sort().values
    return tokens[chosen.to(tokens.device)]


def history(codes: SparseCodes, valid: Bool[Tensor, "batch pos window"], tokens: Int[Tensor, "chosen 2"]) -> History:
    """The chosen tokens, with the `window` positions before each."""
    return History(*gather_history(codes.indices, codes.values, valid, tokens))


def sampled_history(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"] | None,
    window: int,
    draws: Draws,
    purpose: str,
    n: int | None,
) -> tuple[History, Int[Tensor, " chosen"]]:
    """At most `n` unmasked tokens, equally likely, with their past, and the sequence each is from."""
    tokens = mask.nonzero()
    if n is not None and len(tokens) > n:
        order = draws.uniform(purpose, torch.empty(mask.shape, dtype=torch.float64, device=mask.device))
        tokens = tokens[order[mask].topk(n, sorted=False).indices.sort().values]
    return history(as_slots(codes), same_document(mask, doc_ids, window), tokens), tokens[:, 0]


__all__ = ["EMPTY", "History", "as_slots", "history", "same_document", "sample_tokens", "sampled_history"]
