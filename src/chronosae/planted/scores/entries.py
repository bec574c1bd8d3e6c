"""Codes as sorted (token, feature) entries: what the scores count with, so that nothing of size tokens x F is made."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes, SparseCodes


@dataclass(frozen=True)
class Entries:
    """The nonzero codes of unmasked tokens, ordered by `key = token * width + feature`, each key once."""

    key: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    width: int

    @property
    def feature(self) -> Int[Tensor, " n"]:
        """Feature of each entry."""
        return self.key % self.width

    def where(self, chosen: Bool[Tensor, " n"]) -> "Entries":
        """The entries chosen."""
        return Entries(self.key[chosen], self.value[chosen], self.width)

    def renamed(self, names: Int[Tensor, " width"], width: int) -> "Entries":
        """Feature f becomes `names[f]`; entries whose name is negative are dropped. Names must not repeat."""
        name = names[self.feature]
        key = torch.div(self.key, self.width, rounding_mode="floor") * width + name
        kept = name >= 0
        key, order = key[kept].sort()
        return Entries(key, self.value[kept][order], width)

    def shifted(self, tokens: int) -> "Entries":
        """Every entry moved later by that many tokens (earlier if negative)."""
        return Entries(self.key + tokens * self.width, self.value, self.width)

    def partner(self, other: "Entries") -> Float[Tensor, " n"]:
        """For each entry the value of `other` at the same token and feature; 0 where it has none."""
        if not len(other.key):
            return torch.zeros_like(self.value)
        place = torch.searchsorted(other.key, self.key).clamp_max(len(other.key) - 1)
        return torch.where(other.key[place] == self.key, other.value[place], 0)

    def sums(self, values: Float[Tensor, " n"]) -> Float[Tensor, " width"]:
        """Sum of `values` by feature."""
        return torch.zeros(self.width, dtype=values.dtype).index_add(0, self.feature, values)


def entries(codes: Codes, mask: Bool[Tensor, "batch pos"] | None = None) -> Entries:
    """The nonzero codes of `codes` at unmasked tokens, values in float64; tokens are counted through the batch.

    Raises:
        ValueError: a value is NaN or Inf.
    """
    values = codes.values.detach()
    if not torch.isfinite(values).all():
        raise ValueError("the codes hold NaN or Inf; nothing can be scored")
    if mask is not None:
        values = values * mask[..., None]
    flat = values.flatten(0, -2)
    token, slot = flat.nonzero(as_tuple=True)
    feature = codes.indices.flatten(0, -2)[token, slot] if isinstance(codes, SparseCodes) else slot
    key, order = (token * codes.d_sae + feature).sort()
    return Entries(key.cpu(), flat[token, slot][order].double().cpu(), codes.d_sae)
