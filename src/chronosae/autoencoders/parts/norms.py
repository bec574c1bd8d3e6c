"""Norms: what is done to a centred vector before it is mixed and encoded. None has weights of its own."""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders.parts.base import ModuleSpec, Registry

NORMS: Registry["NormSpec"] = Registry("norm")


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
        self._remember(mean.detach(), var.detach())
        return centred * (var + self.eps).rsqrt()

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        share = torch.where(self.seen, self.momentum, 1.0)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)
        self.seen.fill_(True)
