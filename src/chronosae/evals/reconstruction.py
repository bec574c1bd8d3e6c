"""What an autoencoder keeps of the activations: error, direction, norm, sparsity. Sums in float64, one row a document.

Only unmasked tokens enter. x is an activation, y its reconstruction, e = ||x - y||^2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.evals.documents import DocumentSums

# SAEBench divides by 1 where a norm is below this.
TINY_NORM = 1e-4

QUANTITIES = ("tokens", "error", "norm_in", "norm_out", "ratio", "dot", "square_out", "cosine", "l0", "l1", "novel_l0")


@dataclass(frozen=True)
class ReconstructionTotals:
    """Sums over unmasked tokens: `by_document[i]` has one column for each of `QUANTITIES`."""

    by_document: Float[Tensor, "documents quantities"]

    @property
    def finite(self) -> bool:
        """No code and no reconstruction at an unmasked token was NaN or Inf."""
        return bool(self.by_document.isfinite().all())

    def column(self, name: str) -> Float[Tensor, " documents"]:
        """One quantity, summed within each document."""
        return self.by_document[:, QUANTITIES.index(name)]

    def total(self, name: str) -> float:
        """One quantity, summed over all tokens."""
        return float(self.column(name).sum())

    def mean(self, name: str) -> float:
        """One quantity, averaged over all tokens."""
        return self.total(name) / self.total("tokens")


class ReconstructionSums:
    """Accumulates a `ReconstructionTotals`."""

    def __init__(self) -> None:
        self._sums = DocumentSums()

    def add(
        self,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_in"],
        l0: Int[Tensor, " n"],
        l1: Float[Tensor, " n"],
        novel_l0: Int[Tensor, " n"],
        document: Int[Tensor, " n"],
    ) -> None:
        """Add unmasked tokens; `l0`, `l1`, `novel_l0` are those of their codes, `document` each one's document."""
        self._sums.add(token_quantities(x.double(), y.double(), l0, l1, novel_l0), document)

    def finish(self) -> ReconstructionTotals:
        """The sums of everything added, on the CPU."""
        return ReconstructionTotals(self._sums.finish())


def token_quantities(
    x: Float[Tensor, "n d_in"],
    y: Float[Tensor, "n d_in"],
    l0: Int[Tensor, " n"],
    l1: Float[Tensor, " n"],
    novel_l0: Int[Tensor, " n"],
) -> Float[Tensor, "n quantities"]:
    """Each token's value of every quantity in `QUANTITIES`, in that order.

    The cosine of a zero vector with anything is 0 (SAEBench's is NaN).
    """
    norm_in, norm_out, dot = x.norm(dim=1), y.norm(dim=1), (x * y).sum(1)
    product = norm_in * norm_out
    columns = {
        "tokens": torch.ones_like(dot),
        "error": (x - y).square().sum(1),
        "norm_in": norm_in,
        "norm_out": norm_out,
        "ratio": norm_out / torch.where(norm_in < TINY_NORM, 1.0, norm_in),
        "dot": dot,
        "square_out": norm_out.square(),
        "cosine": torch.where(product == 0, 0.0, dot / torch.where(product == 0, 1.0, product)),
        "l0": l0.double(),
        "l1": l1.double(),
        "novel_l0": novel_l0.double(),
    }
    return torch.stack([columns[name] for name in QUANTITIES], dim=1)
