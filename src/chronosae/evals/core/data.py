"""What core reads: held-out text of a run, batches of it that are kept for a second look, and the activations' spread.

Sums are by document: tokens of one document aren't independent, so documents are what intervals resample.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.config import UserError

MOST_BYTES = 2**29
"""Beyond this, reconstructions are computed again."""
# Variance below this share of the mean squared norm is rounding: the activations are constant.
CONSTANT = 1e-12


@dataclass(frozen=True)
class CoreData:
    """The evaluation data, the same for every autoencoder of one pass."""

    site: str
    context: int
    sequences: int
    behaviour_sequences: int
    batches: int
    behaviour_batches: int
    sha256: str
    """Of the tokens and the masks in order, however they were cut into batches."""
    short: bool
    """The text ran out before the tokens asked for."""


class Unmasked(NamedTuple):
    """The unmasked tokens of a batch, in order."""

    acts: Float[Tensor, "n d_in"]
    exact: Float[Tensor, "n d_in"]
    """The same in float64, on the CPU."""
    document: Int[Tensor, " n"]
    """Id of each one's document."""
    column: Int[Tensor, " n"]
    """Its position in the context."""
    place: Int[Tensor, " n"]
    """Its place in the document (`document_positions`)."""


def unmasked(batch: SequenceBatch, site: str) -> Unmasked:
    """What of a batch is evaluated.

    Raises:
        UserError: an activation is NaN or infinite.
    """
    x = batch.unmasked()
    if not x.isfinite().all():
        raise UserError(
            f"core evaluation at {site}: the subject's activations hold NaN or Inf; try --set subject.dtype=float32"
        )
    place = document_positions(batch.mask, batch.doc_ids)[batch.mask]
    return Unmasked(x, x.double().cpu(), batch.doc_ids[batch.mask], batch.mask.nonzero()[:, 1], place)


def document_positions(mask: Bool[Tensor, "batch pos"], doc_ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Unmasked tokens of the same document that stand before each position of the context.

    A document that goes on from the context before starts anew: no autoencoder sees what was there.
    """
    before = mask.long().cumsum(1) - mask.long()
    starts = torch.ones_like(mask)
    starts[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    # `before` never falls along a context, so the largest at a start so far is the one at the last start.
    return before - torch.where(starts, before, 0).cummax(1).values


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


@dataclass(frozen=True)
class SiteSpread:
    """Mean and covariance of the `n_tokens` unmasked activation vectors at a site, in float64.

    `centred_squares` and `centred_sums` hold, for each document, sum ||x - mean||^2 and sum (x - mean); resampling
    documents needs both, because a resample has its own mean.
    """

    n_tokens: int
    mean: Float[Tensor, " d_in"]
    scatter: Float[Tensor, "d_in d_in"]
    """sum (x - mean)(x - mean)^T."""
    sum_of_squares: float
    """sum ||x||^2, about zero."""
    centred_squares: Float[Tensor, " documents"]
    centred_sums: Float[Tensor, "documents d_in"]

    @property
    def total_variance(self) -> float:
        """sum ||x - mean||^2 over all tokens."""
        return float(self.scatter.diagonal().sum())

    @property
    def constant(self) -> bool:
        """The activations don't vary, so a share of explained variance doesn't exist."""
        return self.total_variance <= CONSTANT * self.sum_of_squares


class SpreadSums:
    """Accumulates a `SiteSpread`.

    Sums are taken about the first batch's mean: about zero, the difference of two large numbers would lose digits when
    the mean is far larger than the spread.
    """

    def __init__(self) -> None:
        self._shift: Tensor | None = None
        self._outer: Tensor | None = None
        self._sums = DocumentSums()

    def add(self, x: Float[Tensor, "n d_in"], document: Int[Tensor, " n"]) -> None:
        """Add unmasked vectors `x`; `document` holds the id of each one's document."""
        x = x.double()
        if self._shift is None or self._outer is None:
            self._shift = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
            self._outer = x.new_zeros(x.shape[1], x.shape[1])
        shifted = x - self._shift
        self._outer.addmm_(shifted.T, shifted)
        ones = x.new_ones(len(x), 1)
        self._sums.add(torch.cat([shifted, shifted.square().sum(1, keepdim=True), ones], 1), document)

    def finish(self) -> SiteSpread:
        """The statistics of everything added, on the CPU."""
        assert self._shift is not None and self._outer is not None, "no batch was added"
        found = self._sums.finish()
        sums, squares, counts = found[:, :-2], found[:, -2], found[:, -1]
        n, shift = counts.sum(), self._shift.cpu()
        offset = sums.sum(0) / n
        return SiteSpread(
            n_tokens=int(n),
            mean=shift + offset,
            scatter=self._outer.cpu() - n * torch.outer(offset, offset),
            sum_of_squares=float(squares.sum() + 2 * (sums.sum(0) @ shift) + n * shift.square().sum()),
            centred_squares=squares - 2 * sums @ offset + counts * offset.square().sum(),
            centred_sums=sums - counts.unsqueeze(1) * offset,
        )


class PCALine:
    """Share of the variance that the k leading principal components of the evaluation's own activations explain, to set
    beside an autoencoder with k active features.

    Fitted on the tokens it is measured on, so no affine code with k fixed directions does better there.
    """

    def __init__(self, spread: SiteSpread) -> None:
        eigenvalues = torch.linalg.eigvalsh(spread.scatter).flip(0).clamp_min(0)
        explained = torch.cat([eigenvalues.new_zeros(1), eigenvalues.cumsum(0)])
        self._explained = None if spread.constant else explained / explained[-1]
        self.d_in = len(eigenvalues)

    def at(self, k: int) -> float | None:
        """Explained variance of k components, 0 <= k; 1 from d_in on; None where the activations don't vary."""
        return None if self._explained is None else float(self._explained[min(k, self.d_in)])

    def curve(self) -> dict[int, float]:
        """The line at k = 1, 2, 4, ... and d_in; empty where the activations don't vary."""
        ks = sorted({*(2**power for power in range(self.d_in.bit_length()) if 2**power <= self.d_in), self.d_in})
        return {k: value for k in ks if (value := self.at(k)) is not None}
