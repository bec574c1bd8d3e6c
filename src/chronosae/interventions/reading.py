"""What an edit sees: whole contexts at a site and their codes before any edit."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, DenseCodes, SparseCodes


@dataclass(frozen=True)
class Reading:
    """Activations of whole contexts with their codes; masked tokens (mask False) have zero codes."""

    acts: Float[Tensor, "batch pos d_in"]
    mask: Bool[Tensor, "batch pos"]
    codes: Codes
    unit: Float[Tensor, "batch pos"]
    """Codes a raw activation: a code of `unit * c` writes c times its decoder row into the raw activation."""
    positions: Int[Tensor, "batch pos"] | None = None
    """As in `SequenceBatch`; None where the autoencoder counted for itself."""
    doc_ids: Int[Tensor, "batch pos"] | None = None
    """As in `SequenceBatch`: edits that look back don't look across documents. None: each row is one document."""


def read(
    sae: Autoencoder,
    acts: Float[Tensor, "batch pos d_in"],
    mask: Bool[Tensor, "batch pos"],
    positions: Int[Tensor, "batch pos"] | None = None,
    doc_ids: Int[Tensor, "batch pos"] | None = None,
) -> Reading:
    """Encode whole contexts; everything moves to the autoencoder's device."""
    device = sae.b_dec.device
    acts, mask = acts.to(device), mask.to(device)
    positions, doc_ids = (None if x is None else x.to(device) for x in (positions, doc_ids))
    codes = sae.encode(acts, mask, positions=positions, doc_ids=doc_ids)
    return Reading(acts, mask, codes, code_unit(sae, codes), positions, doc_ids)


def code_unit(sae: Autoencoder, codes: Codes) -> Float[Tensor, "*tokens"]:
    """`Reading.unit`: what the autoencoder multiplied each activation by before it encoded."""
    if codes.scale is not None:
        return codes.scale
    factor = sae.cfg.normalisation.factor if sae.cfg.normalisation.kind == "dataset" else 1.0
    return torch.full(codes.values.shape[:-1], factor, dtype=sae.b_dec.dtype, device=codes.values.device)


def at_tokens(codes: Codes, where: Bool[Tensor, "*tokens"]) -> Codes:
    """The codes of some tokens, flat `[n]`, enough to decode them; what a body keeps beside its codes is left out."""
    scale = None if codes.scale is None else codes.scale[where]
    if isinstance(codes, SparseCodes):
        return SparseCodes(codes.values[where], scale, codes.indices[where], codes.n_features)
    return DenseCodes(codes.values[where], scale)
