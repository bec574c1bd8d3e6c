"""Choosing pre-activations without a full sort."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders.codes import Codes, DenseCodes, SparseCodes
from chronosae.kernels import at_slots, largest_positive

# Above this share of active features, slots would take as much as one value a feature.
DENSE_SHARE = 1 / 8


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
