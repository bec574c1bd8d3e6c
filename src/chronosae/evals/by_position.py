"""Where in the context, or in a document, an autoencoder fails: variance explained and L0 at each position."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def document_positions(mask: Bool[Tensor, "batch pos"], doc_ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Unmasked tokens of the same document that stand before each position of the context.

    A document that goes on from the context before starts anew: no autoencoder sees what was there.
    """
    before = mask.long().cumsum(1) - mask.long()
    starts = torch.ones_like(mask)
    starts[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    # `before` never falls along a context, so the largest at a start so far is the one at the last start.
    return before - torch.where(starts, before, 0).cummax(1).values


class PositionSums:
    """Sums at each position, over unmasked tokens of all sequences; in float64, on the CPU.

    A position is a column of the context, or a place in a document (`document_positions`).
    """

    def __init__(self) -> None:
        self._tokens = torch.zeros(0, dtype=torch.float64)
        self._error, self._l0, self._squares = (torch.zeros(0, dtype=torch.float64) for _ in range(3))
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._shift: Tensor | None = None

    def add(
        self,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_in"],
        l0: Int[Tensor, " n"],
        column: Int[Tensor, " n"],
        context: int,
    ) -> None:
        """Add unmasked tokens `x`, their reconstructions and L0; `column` is the position of each, below `context`."""
        x, y, column = x.double().cpu(), y.double().cpu(), column.cpu()
        if self._shift is None:
            # About the first batch's mean: the difference of two large numbers would lose digits.
            self._shift = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
        shifted = x - self._shift
        grown = max(context, len(self._tokens))
        self._tokens = _grow(self._tokens, grown).index_add_(0, column, torch.ones(len(x), dtype=torch.float64))
        self._error = _grow(self._error, grown).index_add_(0, column, (x - y).square().sum(1))
        self._l0 = _grow(self._l0, grown).index_add_(0, column, l0.double().cpu())
        self._squares = _grow(self._squares, grown).index_add_(0, column, shifted.square().sum(1))
        self._sums = _grow(self._sums, grown, x.shape[1]).index_add_(0, column, shifted)

    def table(self, mean: Float[Tensor, " d_in"]) -> dict[str, list[float | int | None]]:
        """`tokens`, `explained_variance` and `l0` at each column; None where no token was unmasked or none varies.

        Variance is about `mean`, the mean over all tokens, so that columns can be compared:
        `1 - sum_t ||x_t - y_t||^2 / sum_t ||x_t - mean||^2` over the tokens of the column.
        """
        assert self._shift is not None, "no batch was added"
        offset = mean.double().cpu() - self._shift
        variance = self._squares - 2 * self._sums @ offset + self._tokens * offset.square().sum()
        rows = zip(
            self._tokens.tolist(), self._error.tolist(), variance.tolist(), self._l0.tolist(), strict=True
        )  # fmt: skip
        cells = [(int(n), 1 - e / v if n and v > 0 else None, l0 / n if n else None) for n, e, v, l0 in rows]
        return {
            "tokens": [n for n, _, _ in cells],
            "explained_variance": [value for _, value, _ in cells],
            "l0": [value for _, _, value in cells],
        }


def _grow(values: Tensor, length: int, width: int | None = None) -> Tensor:
    shape = (length,) if width is None else (length, width)
    if values.shape == shape:
        return values
    grown = values.new_zeros(shape)
    if len(values):
        grown[: len(values)] = values
    return grown
