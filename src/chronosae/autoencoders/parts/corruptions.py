"""Input corruptions of the denoising objective: the encoder sees a damaged vector, the target stays clean.

Off by default. Levels are in normalised units, where the mean norm of an input is sqrt(d_in): Gaussian noise of level
0.7, the default, adds about half of the input's energy.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from chronosae.autoencoders.draws import Draws
from chronosae.autoencoders.parts.base import PartSpec, Registry

CORRUPTIONS: Registry["CorruptionSpec"] = Registry("corruption")


class CorruptionSpec(PartSpec):
    """Base of the corruptions."""

    def apply(self, centred: Float[Tensor, "batch pos d_in"], draws: Draws) -> Float[Tensor, "batch pos d_in"]:
        """The damaged copy of inputs from which b_dec was subtracted: 0 is the uninformative value."""
        raise NotImplementedError


@CORRUPTIONS.add
class Gaussian(CorruptionSpec):
    """Adds independent noise of standard deviation `level` to every dimension."""

    kind: Literal["gaussian"] = "gaussian"
    level: Annotated[float, Field(gt=0)] = 0.7

    def apply(self, centred: Tensor, draws: Draws) -> Tensor:
        return draws.plus_normal("corruption", centred, self.level)


@CORRUPTIONS.add
class DropDimensions(CorruptionSpec):
    """Zeroes each dimension of each token with probability `level`; the rest grows by 1 / (1 - level)."""

    kind: Literal["dropout"] = "dropout"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def apply(self, centred: Tensor, draws: Draws) -> Tensor:
        return centred * (draws.uniform("corruption", centred) >= self.level) / (1 - self.level)


@CORRUPTIONS.add
class MaskTokens(CorruptionSpec):
    """Zeroes whole tokens with probability `level`: the codes must come from what was read before."""

    kind: Literal["token_mask"] = "token_mask"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.15

    def apply(self, centred: Tensor, draws: Draws) -> Tensor:
        return centred * (draws.uniform("corruption", centred[..., :1]) >= self.level)
