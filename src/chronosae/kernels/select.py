"""The k largest positive entries of every row.

Shapes: F d_sae.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.compiled import evenly, loops_for, parallel
from chronosae.kernels.gpu import gpu_kernels


def largest_positive(pre: Float[Tensor, "n f"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values and indices of the k largest positive entries of each row; indices ascending, unused slots (0, 0).

    Of equal entries the first is taken. NaN counts as largest, so that it stays visible. No gradient.
    """
    gpu, loops = gpu_kernels(pre), loops_for(pre)
    if gpu is not None:
        return gpu.largest_positive(pre, k)
    if loops is None or pre.dtype != torch.float32 or not pre.is_contiguous():
        return largest_positive_dense(pre, k)
    values, indices = pre.new_empty(len(pre), k), torch.empty(len(pre), k, dtype=torch.int64)
    rows, bits = pre.detach().numpy(), pre.detach().view(torch.int32).numpy()
    out = indices.numpy(), values.numpy()
    groups = group_count(k, pre.shape[1])
    parallel(evenly(len(pre), 16), lambda a, b: loops.largest(bits, rows, k, groups, a, b, *out))
    return values, indices


def largest_positive_dense(pre: Float[Tensor, "n f"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The reference of `largest_positive`; which of equal entries it takes is torch's choice."""
    values, indices = pre.detach().topk(k, dim=-1, sorted=False)
    indices = torch.where(values <= 0, 0, indices).sort(dim=-1).values
    return at_slots(pre.detach(), indices), indices


def at_slots(
    pre: Float[Tensor, "n f"], indices: Int[Tensor, "n k"], active: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n k"]:
    """The positive entries of each row at indices that ascend after unused slots; zero in these. Gradient to `pre`.

    Feature 0 and an unused slot have the same name, but feature 0's own slot is the last one that bears it.
    """
    ours = torch.cat([indices[:, 1:] != 0, torch.ones_like(indices[:, :1], dtype=torch.bool)], 1)
    values = pre.gather(1, indices)
    # Not `values > 0`: a NaN must stay visible, or broken weights would look like an autoencoder that never fires.
    used = ~(values <= 0) & ours
    return torch.where(used if active is None else used & active.unsqueeze(1), values, 0)


def group_count(k: int, d_sae: int) -> int:
    """Groups whose maxima bound the k-th largest, at least k of them.

    All maxima are looked at, and the `d_sae / groups` entries of little more than k groups: least work in all at
    `sqrt(k d_sae)` groups. With few, the largest k share groups and the bound is worse.
    """
    groups = max(128, 4 * k, math.isqrt(k * d_sae))
    return min(d_sae, -(-groups // 64) * 64)
