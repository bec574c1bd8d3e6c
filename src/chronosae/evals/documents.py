"""Sums by document: what intervals resample, for tokens of one document aren't independent."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class DocumentSums:
    """Adds up rows of numbers by document, over whatever batches and contexts a document's tokens come in."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._documents: list[Tensor] = []

    def add(self, values: Float[Tensor, "n columns"], document: Int[Tensor, " n"]) -> None:
        """Add `n` tokens; `document` holds the id of each one's document (`SequenceBatch.doc_ids`)."""
        ids, place = document.unique(return_inverse=True)
        sums = values.new_zeros(len(ids), values.shape[1]).index_add_(0, place.to(values.device), values)
        self._sums.append(sums.cpu())
        self._documents.append(ids.cpu())

    def finish(self) -> Float[Tensor, "documents columns"]:
        """The sums of everything added, a row a document, in the order of their ids; on the CPU."""
        ids, place = torch.cat(self._documents).unique(return_inverse=True)
        sums = torch.cat(self._sums)
        return sums.new_zeros(len(ids), sums.shape[1]).index_add_(0, place, sums)
