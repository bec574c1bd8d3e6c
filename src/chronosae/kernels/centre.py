"""Inputs minus a vector, in one pass."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.kernels.compiled import evenly, loops_for, parallel
from chronosae.kernels.memory import recycled


def centred_rows(
    x: Float[Tensor, "n d"], centre: Float[Tensor, " d"], active: Bool[Tensor, " n"] | None
) -> Float[Tensor, "n d"]:
    """`x - centre`, zero for tokens that aren't active whatever they hold. No gradient."""
    x, centre = x.detach(), centre.detach()
    loops = loops_for(x, centre)
    if loops is None:
        return x - centre if active is None else torch.where(active.unsqueeze(-1), x - centre, 0)
    out = recycled(tuple(x.shape), x.dtype)
    active = torch.ones(len(x), dtype=torch.bool) if active is None else active
    before = [t.contiguous().numpy() for t in (x, centre, active)]
    parallel(evenly(len(x), 64), lambda a, b: loops.centred(*before, a, b, out.numpy()))
    return out
