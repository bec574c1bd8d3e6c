"""Reconstructions of the first batches, kept for a second look so that nothing is computed twice."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from chronosae.activations.batch import SequenceBatch

MOST_BYTES = 2**29
"""Beyond this, reconstructions are computed again."""


@dataclass(frozen=True)
class Reconstructed:
    """A batch, and what each autoencoder makes of it."""

    batch: SequenceBatch
    recon: dict[str, Float[Tensor, "batch pos d_in"]]

    def first(self, n: int) -> "Reconstructed":
        """Its first `n` sequences."""
        names = ("acts", "mask", "tokens", "positions", "doc_ids")
        tensors = {name: getattr(self.batch, name)[:n] for name in names}
        batch = replace(self.batch, **tensors, source=self.batch.source[:n])
        return Reconstructed(batch, {name: y[:n] for name, y in self.recon.items()})


class Kept:
    """Holds batches from the first on until they have `positions` positions, or take more than `MOST_BYTES`."""

    def __init__(self, positions: int) -> None:
        self._missing, self._bytes = positions, 0
        self._parts: list[Reconstructed] = []

    def offer(self, part: Reconstructed) -> None:
        """Keep the next batch if it is still wanted."""
        if self._missing <= 0 or self._bytes > MOST_BYTES:
            return
        self._missing -= part.batch.tokens.numel()
        self._bytes += sum(tensor.nbytes for tensor in (part.batch.acts, *part.recon.values()))
        self._parts.append(part)
        if self._bytes > MOST_BYTES:
            self._parts.clear()

    @property
    def whole(self) -> bool:
        """Everything that was wanted is here."""
        return self._missing <= 0 and bool(self._parts)

    def __iter__(self) -> Iterator[Reconstructed]:
        return iter(self._parts)


def bare(batches: Iterable[SequenceBatch]) -> Iterator[Reconstructed]:
    """Batches without reconstructions."""
    return (Reconstructed(batch, {}) for batch in batches)


def take(parts: Iterable[Reconstructed], n_positions: int) -> Iterator[Reconstructed]:
    """Parts until `n_positions` positions have been seen; the last one loses the sequences beyond."""
    left = n_positions
    for part in parts:
        wanted = -(-left // part.batch.tokens.shape[1])
        yield part if wanted >= part.batch.n_sequences else part.first(wanted)
        left -= part.batch.tokens.numel()
        if left <= 0:
            return
