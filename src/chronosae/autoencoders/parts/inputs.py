"""What is done to a centred vector before it is mixed and encoded: norms, and the corruptions of a training pass.

None has weights of its own. A corruption damages what the encoder sees while the target stays clean: the denoising
objective, off by default. Its levels are in normalised units, where the mean norm of an input is sqrt(d_in): Gaussian
noise of level 0.7, the default, adds about half of the input's energy.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders.parts import ModuleSpec, follow
from chronosae.autoencoders.tokens import Draws
from chronosae.config.registry import PartSpec, Registry

NORMS: Registry["NormSpec"] = Registry("norm")
CORRUPTIONS: Registry["CorruptionSpec"] = Registry("corruption")


class NormSpec(ModuleSpec):
    """Base of the norms. The module maps `(h [*tokens, d_in], mask, training)` to the same shape."""


@NORMS.add
class LayerNorm(NormSpec):
    """Each token to mean 0 and variance 1 over d_in; the encoder's own weights make an affine part redundant."""

    kind: Literal["layer"] = "layer"
    eps: Annotated[float, Field(gt=0)] = 1e-5

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        return _LayerNorm(self.eps)


@NORMS.add
class BatchNorm(NormSpec):
    """Each dimension to mean 0 and variance 1 over the batch's unmasked tokens; running ones when not training."""

    kind: Literal["batch"] = "batch"
    eps: Annotated[float, Field(gt=0)] = 1e-5
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of a new batch in the running statistics; the first batch sets them."""

    def make(self, d_in: int, d_sae: int) -> nn.Module:
        return _BatchNorm(d_in, self.eps, self.momentum)


class _LayerNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self, h: Float[Tensor, "*tokens d_in"], mask: Bool[Tensor, "*tokens"] | None, training: bool
    ) -> Float[Tensor, "*tokens d_in"]:
        return nn.functional.layer_norm(h, h.shape[-1:], eps=self.eps)


class _BatchNorm(nn.Module):
    running_mean: Tensor
    running_var: Tensor
    seen: Tensor

    def __init__(self, d_in: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(d_in))
        self.register_buffer("running_var", torch.ones(d_in))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(
        self, h: Float[Tensor, "*tokens d_in"], mask: Bool[Tensor, "*tokens"] | None, training: bool
    ) -> Float[Tensor, "*tokens d_in"]:
        if not training:
            return (h - self.running_mean) * (self.running_var + self.eps).rsqrt()
        # Masked tokens were zeroed: dividing by the number of the others is all that is left to do.
        weight = torch.ones(h.shape[:-1], device=h.device) if mask is None else mask
        n = weight.sum().clamp_min(1)
        tokens = tuple(range(h.dim() - 1))
        mean = h.sum(tokens) / n
        centred = (h - mean) * weight.unsqueeze(-1)
        var = centred.pow(2).sum(tokens) / n
        follow(self.seen, self.momentum, (self.running_mean, mean.detach()), (self.running_var, var.detach()))
        return centred * (var + self.eps).rsqrt()


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
