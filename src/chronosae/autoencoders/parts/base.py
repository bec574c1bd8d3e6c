"""What a part of the autoencoder is: a small pydantic model that says which one, and the module it makes."""

from typing import Annotated

from pydantic import Field
from torch import nn

from chronosae.config.registry import PartSpec, Registry

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class ModuleSpec(PartSpec):
    """A part that computes something."""

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        """The module with fresh weights. Must work on the `meta` device; random weights come from torch's generator."""
        raise NotImplementedError


__all__ = ["Fraction", "ModuleSpec", "PartSpec", "Positive", "Registry"]
