"""`SequenceBatch`: activations that still know their sequence."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SequenceBatch:
    """Activations of whole contexts at one site.

    `mask` says which tokens an autoencoder sees and counts: BOS, padding and special tokens are False. It is not the
    subject's attention mask. `positions` count unmasked tokens from 0 (`cumsum(mask) - 1`); `doc_ids` change where a
    new document starts. `source` names, for each sequence, the corpus it comes from.
    """

    acts: Float[Tensor, "batch pos d_in"]
    mask: Bool[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    doc_ids: Int[Tensor, "batch pos"]
    source: tuple[str, ...]

    @property
    def n_sequences(self) -> int:
        """Number of sequences in the batch."""
        return self.tokens.shape[0]

    def unmasked(self) -> Float[Tensor, "n d_in"]:
        """The activations an autoencoder counts, flattened; for statistics that ignore order."""
        return self.acts[self.mask]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "SequenceBatch":
        """The batch on `device`, activations in `dtype`."""
        return replace(
            self,
            acts=self.acts.to(device=device, dtype=dtype),
            mask=self.mask.to(device),
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            doc_ids=self.doc_ids.to(device),
        )
