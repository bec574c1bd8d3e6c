"""The interface of all edits, and how an edit of codes becomes an edit of activations.

    x' = decode(f') + (x - decode(f))

f are the codes of x, f' the edited ones: what the autoencoder fails to reconstruct passes through untouched.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, DenseCodes, SparseCodes


@dataclass(frozen=True)
class Reading:
    """What an edit sees: activations of whole contexts with their codes before any edit; masked tokens (mask False)
    have zero codes."""

    acts: Float[Tensor, "batch pos d_in"]
    mask: Bool[Tensor, "batch pos"]
    codes: Codes
    unit: Float[Tensor, "batch pos"]
    """Codes a raw activation: a code of `unit * c` writes c times its decoder row into the raw activation."""
    positions: Int[Tensor, "batch pos"] | None = None
    """As in `SequenceBatch`; None where the autoencoder counted for itself."""
    doc_ids: Int[Tensor, "batch pos"] | None = None
    """As in `SequenceBatch`: edits that look back don't look across documents. None: each row is one document."""


@dataclass(frozen=True)
class Change:
    """What an edit does: new codes at some tokens, the others stay."""

    where: Bool[Tensor, "batch pos"]
    codes: Codes
    """All codes `f'` of the tokens in `where`, flat `[n]`, in the order of `where.nonzero()`; with their scale."""


class CodeEdit(ABC):
    """An edit of codes. It sees whole contexts, so it may look back; it never looks ahead of a token."""

    @abstractmethod
    def __call__(self, reading: Reading) -> Change:
        """The edit of one batch; the reading stays as it is."""


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


def at_tokens(codes: Codes, where: Bool[Tensor, "*tokens"]) -> SparseCodes | DenseCodes:
    """The codes of some tokens, flat `[n]`, enough to decode them; what a body keeps beside its codes is left out."""
    scale = None if codes.scale is None else codes.scale[where]
    if isinstance(codes, SparseCodes):
        return SparseCodes(codes.values[where], scale, codes.indices[where], codes.n_features)
    return DenseCodes(codes.values[where], scale)


def edited(sae: Autoencoder, reading: Reading, edit: CodeEdit) -> Float[Tensor, "batch pos d_in"]:
    """Activations after the edit, in the type of `reading.acts`.

    Masked tokens, and tokens whose codes the edit leaves alone, keep their activation to the bit. Only the tokens that
    change are decoded.
    """
    return applied(sae, reading, edit(reading))


def applied(sae: Autoencoder, reading: Reading, change: Change) -> Float[Tensor, "batch pos d_in"]:
    """`edited`, for a change that is known already."""
    where = change.where & reading.mask
    if not where.any():
        return reading.acts
    after = at_tokens(change.codes, reading.mask[change.where])
    with torch.no_grad():
        delta = sae.decode(after) - sae.decode(at_tokens(reading.codes, where))
    acts = reading.acts.clone()
    acts[where] = (acts[where].to(delta.dtype) + delta).to(acts.dtype)
    return acts


class SiteEdit:
    """An edit as `Subject.run_with` takes it: `subject.run_with(tokens, {site: SiteEdit(...)})`.

    Each call reads whole contexts: mask (and positions, documents) are those of the tokens that the subject is given.
    """

    def __init__(
        self,
        sae: Autoencoder,
        edit: CodeEdit,
        mask: Bool[Tensor, "batch pos"],
        positions: Int[Tensor, "batch pos"] | None = None,
        doc_ids: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        self.sae, self.edit = sae, edit
        self.mask, self.positions, self.doc_ids = mask, positions, doc_ids

    @torch.no_grad()
    def __call__(self, acts: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_in"]:
        return edited(self.sae, read(self.sae, acts, self.mask, self.positions, self.doc_ids), self.edit)
