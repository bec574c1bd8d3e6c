"""`Codes`: the activations of all features on a batch, sparse or dense, and how they are chosen without a full sort.

Shapes: `batch pos` are those of the activations encoded; static autoencoders also take flat `[n, d_in]` input, so the
leading shape is written `*tokens`.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import at_slots, count_active, largest_positive, scatter_dense, sparse_decode

# A dense tensor of codes above this many bytes is almost always a mistake; ask for a slice with `.at` instead.
DENSE_LIMIT_BYTES = 8 * 2**30
# Above this share of active features, slots would take as much as one value a feature.
DENSE_SHARE = 1 / 8


@dataclass(frozen=True)
class Codes:
    """Base of `SparseCodes` and `DenseCodes`.

    `scale [*tokens]` is set when every token was normalised by its own norm: decoding divides by it.
    """

    values: Float[Tensor, "*tokens slots"]
    scale: Float[Tensor, "*tokens"] | None

    @property
    def d_sae(self) -> int:
        """Number of features."""
        raise NotImplementedError

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        """All codes as one tensor.

        Raises:
            MemoryError: it would take more than `DENSE_LIMIT_BYTES`.
        """
        raise NotImplementedError

    def at(self, feature: int) -> Float[Tensor, "*tokens"]:
        """One feature's activation at every token."""
        raise NotImplementedError

    def combine(
        self, W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"] | None = None
    ) -> Float[Tensor, "*tokens d_in"]:
        """`codes @ W_dec`, plus b_dec if given."""
        raise NotImplementedError

    def fired(self) -> Int[Tensor, " d_sae"]:
        """How many tokens each feature fired on."""
        raise NotImplementedError

    def l0(self) -> Int[Tensor, "*tokens"]:
        """Features active (value != 0) at each token."""
        return (self.values != 0).sum(-1)

    def chosen(self) -> "Codes":
        """The codes that sparsity was asked of: all, unless some are foretold by the context (TFA)."""
        return self

    def detach(self) -> "Codes":
        """The same codes, cut from the graph."""
        return replace(self, values=self.values.detach())

    def _check_size(self) -> None:
        size = self.values.shape[:-1].numel() * self.d_sae * self.values.element_size()
        if size > DENSE_LIMIT_BYTES:
            raise MemoryError(
                f"dense codes of shape {[*self.values.shape[:-1], self.d_sae]} would take {size / 2**30:.1f} GiB"
                f" (limit {DENSE_LIMIT_BYTES / 2**30:.0f} GiB); use .at(feature) or encode fewer tokens at a time"
            )


@dataclass(frozen=True)
class SparseCodes(Codes):
    """Codes as (index, value) slots: indices ascending, unused slots (0, 0)."""

    indices: Int[Tensor, "*tokens slots"]
    n_features: int

    @property
    def d_sae(self) -> int:
        return self.n_features

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        self._check_size()
        return scatter_dense(self.indices, self.values, self.n_features)

    def at(self, feature: int) -> Float[Tensor, "*tokens"]:
        return torch.where(self.indices == feature, self.values, 0).sum(-1)

    def combine(
        self, W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"] | None = None
    ) -> Float[Tensor, "*tokens d_in"]:
        return sparse_decode(self.indices, self.values, W_dec, b_dec)

    def fired(self) -> Int[Tensor, " d_sae"]:
        return self._counts()[0]

    def l0(self) -> Int[Tensor, "*tokens"]:
        return self._counts()[1].view(self.values.shape[:-1])

    def _counts(self) -> tuple[Tensor, Tensor]:
        return count_active(self.indices.flatten(0, -2), self.values.detach().flatten(0, -2), self.n_features)


@dataclass(frozen=True)
class DenseCodes(Codes):
    """Codes as one value a feature."""

    @property
    def d_sae(self) -> int:
        return self.values.shape[-1]

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        return self.values

    def at(self, feature: int) -> Float[Tensor, "*tokens"]:
        return self.values[..., feature]

    def combine(
        self, W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"] | None = None
    ) -> Float[Tensor, "*tokens d_in"]:
        return self.values @ W_dec if b_dec is None else self.values @ W_dec + b_dec

    def fired(self) -> Int[Tensor, " d_sae"]:
        return (self.values != 0).flatten(0, -2).sum(0)


def select_topk(
    pre: Float[Tensor, "*tokens d_sae"], k: int, mask: Bool[Tensor, "*tokens"] | None = None
) -> tuple[Float[Tensor, "*tokens slots"], Tensor]:
    """Values and indices of the k largest positive entries of each row, indices ascending, unused slots (0, 0)."""
    # Only the k chosen are ever copied: a rectified [tokens, d_sae] would double the memory of a step.
    rows = pre.reshape(-1, pre.shape[-1])
    active = None if mask is None else mask.reshape(-1)
    indices = largest_positive(rows.detach(), k)[1]
    if active is not None:
        indices = indices * active.unsqueeze(1)
    return at_slots(rows, indices, active).view(*pre.shape[:-1], k), indices.view(*pre.shape[:-1], k)


def compact(
    pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens d_sae"], scale: Float[Tensor, "*tokens"] | None
) -> Codes:
    """The kept entries of `pre` as codes, in as many slots as the fullest token needs; dense where most are kept."""
    d_sae = pre.shape[-1]
    slots = int(keep.sum(-1).max()) if keep.numel() else 0
    if slots > DENSE_SHARE * d_sae:
        return DenseCodes(values=torch.where(keep, pre, pre * 0), scale=scale)
    slots = max(slots, 1)
    # Kept features first, in ascending order, then the rest: the stable order of one bit a feature.
    order = torch.where(keep, torch.arange(d_sae, 0, -1, device=pre.device, dtype=torch.int32), 0)
    used, indices = order.topk(slots, dim=-1)
    indices = torch.where(used > 0, indices, 0)
    indices, slot = indices.sort(dim=-1)
    values = torch.where((used > 0).gather(-1, slot), pre.gather(-1, indices), 0)
    return SparseCodes(values=values, scale=scale, indices=indices, n_features=d_sae)


def smallest_of_largest(rows: Float[Tensor, "n d_sae"], count: int) -> Float[Tensor, ""]:
    """The `count`-th largest positive entry of all (the smallest positive one if fewer are positive; Inf if none is).

    Each row's own largest are enough, as long as no row gives up all that were taken from it and has more to give.
    """
    n, d_sae = rows.shape
    if n == 0:
        return rows.new_tensor(torch.inf)
    taken = min(d_sae, max(32, 4 * -(-count // n)))
    while True:
        largest = rows.topk(taken, dim=-1, sorted=False).values
        chosen = largest.flatten().topk(min(count, largest.numel()), sorted=False).values.amin()
        if taken == d_sae or not (largest.amin(-1) > chosen.clamp_min(0)).any():
            break
        taken = min(d_sae, 2 * taken)
    if chosen > 0 or torch.isnan(chosen):
        return chosen
    positive = largest[largest > 0]
    return positive.amin() if positive.numel() else rows.new_tensor(torch.inf)
