"""Parts of an autoencoder: each a small pydantic model that says which one, and the module or function it makes."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from chronosae.config.registry import PartSpec

Positive = Annotated[int, Field(gt=0)]


class ModuleSpec(PartSpec):
    """A part that computes something."""

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        """The module with fresh weights. Must work on the `meta` device; random weights come from torch's generator."""
        raise NotImplementedError


@torch.no_grad()
def follow(seen: Tensor, momentum: float, *pairs: tuple[Tensor, Tensor]) -> None:
    """Move each (running, new) statistic by `momentum` towards the new one; all the way the first time."""
    share = torch.where(seen, momentum, 1.0)
    for running, new in pairs:
        running.lerp_(new.to(running.dtype), share)
    seen.fill_(True)
