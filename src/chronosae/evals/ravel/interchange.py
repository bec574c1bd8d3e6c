"""The interchange: chosen features take the source's codes, all others keep the base's."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, DenseCodes
from chronosae.evals.ravel.prompts import Change, Prompts, dense_rows

Mask = Float[Tensor, " width"]
"""Share of each feature that is exchanged, 0 to 1."""


@dataclass(frozen=True)
class Interchange:
    """What can be exchanged at the entities' tokens, and how an exchange changes the activations."""

    width: int
    """Features, or residual dimensions."""
    change: Callable[[Int[Tensor, " n"], Int[Tensor, " n"], Mask], Change]
    """Prompts that are the base, prompts that are the source, mask -> the change."""


def of_features(sae: Autoencoder, prompts: Prompts, codes: Codes, *, keep_error: bool) -> Interchange:
    """Exchange features: x + decode((1 - m) f_base + m f_source) - decode(f_base), or without x - decode(f_base)."""
    device = sae.b_dec.device

    def decoded(values: Tensor, base: Tensor) -> Tensor:
        scale = None if codes.scale is None else codes.scale[base].to(device)
        return sae.decode(DenseCodes(values.to(device), scale))

    def change(base: Tensor, source: Tensor, mask: Tensor) -> Change:
        here, where = dense_rows(codes, base), exchanged(prompts, base, source)
        mixed = decoded(here + mask * (dense_rows(codes, source) - here), base)
        if not keep_error:
            return Change(mixed, where, True)
        with torch.no_grad():
            before = decoded(here, base)
        return Change(mixed - before, where, False)

    return Interchange(codes.d_sae, change)


def of_dimensions(prompts: Prompts, acts: Float[Tensor, "prompts span d_in"]) -> Interchange:
    """Exchange residual dimensions; a mask of ones exchanges whole activations."""

    def change(base: Tensor, source: Tensor, mask: Tensor) -> Change:
        return Change(mask * (acts[source] - acts[base]), exchanged(prompts, base, source), False)

    return Interchange(acts.shape[-1], change)


def exchanged(prompts: Prompts, base: Int[Tensor, " n"], source: Int[Tensor, " n"]) -> Bool[Tensor, "n span"]:
    """The last tokens up to the entity's last, as many as the longer of the two names has.

    Names are aligned at their ends. The shorter one stands for the longer with the words of the prompt before it, which
    both prompts share.
    """
    longer = torch.maximum(prompts.length[base], prompts.length[source])
    return torch.arange(prompts.places.shape[1] - 1, -1, -1) < longer.unsqueeze(1)
