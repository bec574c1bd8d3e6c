"""Which features tell a class best: the largest difference of means, for all classes and features at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.evals.sparse_probing.tasks import Part


def mean_differences(
    x: Float[Tensor, "rows width"], parts: Sequence[Part], *, relative: bool = False
) -> Float[Tensor, "tasks width"]:
    """Mean over the class minus mean over the rest, for each task.

    Arguments:
        x: one vector a text.
        relative: in units of the feature's mean |activation| where it isn't 0 on the task's rows, as sae-probes does.
    """
    signs = x.new_zeros(len(parts), len(x))
    for sign, part in zip(signs, parts, strict=True):
        share = torch.where(part.labels, 1 / part.labels.sum().clamp(min=1), -1 / (~part.labels).sum().clamp(min=1))
        sign[part.rows] = share.to(x)
    found = signs @ x
    if not relative:
        return found
    inside = (signs != 0).to(x)
    typical = (inside @ x.abs()) / (inside @ (x != 0).to(x) + 1e-6)
    return found / (typical + 1e-6)


def strongest(
    x: Float[Tensor, "rows width"], parts: Sequence[Part], k: int, *, relative: bool = False
) -> Int[Tensor, "tasks k"]:
    """The `k` features of largest absolute `mean_differences`, best first; of equal ones the lower number first."""
    size = mean_differences(x, parts, relative=relative).abs()
    return size.argsort(dim=1, descending=True, stable=True)[:, :k]
