"""Mean, covariance and variance of the activations at a site, accumulated batch by batch in float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.evals.documents import DocumentSums

# Variance below this share of the mean squared norm is rounding: the activations are constant.
CONSTANT = 1e-12


@dataclass(frozen=True)
class SiteMoments:
    """Statistics of `n_tokens` unmasked activation vectors.

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


class MomentSums:
    """Accumulates a `SiteMoments`.

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

    def finish(self) -> SiteMoments:
        """The statistics of everything added, on the CPU."""
        assert self._shift is not None and self._outer is not None, "no batch was added"
        found = self._sums.finish()
        sums, squares, counts = found[:, :-2], found[:, -2], found[:, -1]
        n, shift = counts.sum(), self._shift.cpu()
        offset = sums.sum(0) / n
        return SiteMoments(
            n_tokens=int(n),
            mean=shift + offset,
            scatter=self._outer.cpu() - n * torch.outer(offset, offset),
            sum_of_squares=float(squares.sum() + 2 * (sums.sum(0) @ shift) + n * shift.square().sum()),
            centred_squares=squares - 2 * sums @ offset + counts * offset.square().sum(),
            centred_sums=sums - counts.unsqueeze(1) * offset,
        )
