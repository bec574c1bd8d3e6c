"""Mean, covariance and variance of the activations at a site, accumulated batch by batch in float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Variance below this share of the mean squared norm is rounding: the activations are constant.
CONSTANT = 1e-12


@dataclass(frozen=True)
class SiteMoments:
    """Statistics of `n_tokens` unmasked activation vectors.

    `centred_squares` and `centred_sums` hold, for each sequence, sum ||x - mean||^2 and sum (x - mean); resampling
    sequences needs both, because a resample has its own mean.
    """

    n_tokens: int
    mean: Float[Tensor, " d_in"]
    scatter: Float[Tensor, "d_in d_in"]
    """sum (x - mean)(x - mean)^T."""
    sum_of_squares: float
    """sum ||x||^2, about zero."""
    centred_squares: Float[Tensor, " sequences"]
    centred_sums: Float[Tensor, "sequences d_in"]

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
        self._counts: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._sums: list[Tensor] = []

    def add(self, x: Float[Tensor, "n d_in"], sequence: Int[Tensor, " n"], n_sequences: int) -> None:
        """Add unmasked vectors `x`; `sequence` says which sequence of the batch each belongs to."""
        x = x.double()
        if self._shift is None or self._outer is None:
            self._shift = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
            self._outer = x.new_zeros(x.shape[1], x.shape[1])
        shifted = x - self._shift
        self._outer.addmm_(shifted.T, shifted)
        self._sums.append(x.new_zeros(n_sequences, x.shape[1]).index_add_(0, sequence, shifted))
        self._squares.append(x.new_zeros(n_sequences).index_add_(0, sequence, shifted.square().sum(1)))
        self._counts.append(torch.bincount(sequence, minlength=n_sequences))

    def finish(self) -> SiteMoments:
        """The statistics of everything added, on the CPU."""
        assert self._shift is not None and self._outer is not None, "no batch was added"
        sums, squares = torch.cat(self._sums).cpu(), torch.cat(self._squares).cpu()
        counts = torch.cat(self._counts).double().cpu()
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
