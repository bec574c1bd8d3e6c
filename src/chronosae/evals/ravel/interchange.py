"""The interchange: chosen features take the source's codes, all others keep the base's."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, DenseCodes
from chronosae.evals.ravel.prompts import Change

Mask = Float[Tensor, " width"]
"""Share of each feature that is exchanged, 0 to 1."""


@dataclass(frozen=True)
class Interchange:
    """What can be exchanged at the entities' last tokens, and how an exchange changes the activation."""

    width: int
    """Features, or residual dimensions."""
    change: Callable[[Int[Tensor, " n"], Int[Tensor, " n"], Mask], Change]
    """Prompts that are the base, prompts that are the source, mask -> the change."""


def of_features(sae: Autoencoder, codes: DenseCodes, *, keep_error: bool) -> Interchange:
    """Exchange features: x + decode((1 - m) f_base + m f_source) - decode(f_base), or without x - decode(f_base)."""
    device = sae.b_dec.device

    def decoded(values: Tensor, base: Tensor) -> Tensor:
        scale = None if codes.scale is None else codes.scale[base].unsqueeze(1).to(device)
        return sae.decode(DenseCodes(values.unsqueeze(1).to(device), scale)).squeeze(1)

    def change(base: Tensor, source: Tensor, mask: Tensor) -> Change:
        here = codes.values[base]
        mixed = decoded(here + mask * (codes.values[source] - here), base)
        if not keep_error:
            return Change(mixed, True)
        with torch.no_grad():
            before = decoded(here, base)
        return Change(mixed - before, False)

    return Interchange(codes.values.shape[-1], change)


def of_dimensions(acts: Float[Tensor, "prompts d_in"]) -> Interchange:
    """Exchange residual dimensions; a mask of ones exchanges the whole activation."""

    def change(base: Tensor, source: Tensor, mask: Tensor) -> Change:
        return Change(mask * (acts[source] - acts[base]), False)

    return Interchange(acts.shape[-1], change)
