"""SAEBench 0.6.0's four metrics that depend on how tokens are cut into batches, as its code computes them.

They are here so that published numbers can be compared; `docs/evaluations/core.md` says what is wrong with three of
them. x is an unmasked activation, y its reconstruction, e = ||x - y||^2, b a batch with n_b unmasked tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class BatchVariants:
    """Accumulates the batch-dependent variants of one autoencoder."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def add(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_in"]) -> None:
        """Add the unmasked tokens of one batch; a batch without any is left out."""
        if not len(x):
            return
        x, y = x.double(), y.double()
        error = (x - y).square().sum(1)
        spread = (x - x.mean(0)).square().sum(1)
        square_out, dot = y.square().sum(1).mean(), (x * y).sum(1).mean()
        self._rows.append(
            torch.stack(
                [
                    torch.tensor(float(len(x)), dtype=x.dtype, device=x.device),
                    error.mean(),
                    x.square().sum(1).mean(),
                    x.square().mean(),
                    (1 - error / spread).sum(),
                    # A zero reconstruction: the limit of y -> 0 along x.
                    torch.where(square_out == 0, 0.0, square_out / dot),
                ]
            )
        )

    def finish(self) -> dict[str, float | None]:
        """The variants by name; None where the formula divides by zero."""
        n, error, squares, quartic_root, legacy, bias = torch.stack(self._rows).cpu().T
        # The square of the mean *square*: dimension x^4, subtracted from x^2. That is SAEBench's bug, kept on purpose.
        spread = squares.mean() - quartic_root.mean().square()
        values = {
            "mse_saebench": error.sum() / n.sum(),
            "explained_variance_saebench_060": 1 - error.mean() / spread,
            "explained_variance_legacy": legacy.sum() / n.sum(),
            "relative_reconstruction_bias": bias.mean(),
        }
        return {name: float(value) if value.isfinite() else None for name, value in values.items()}
