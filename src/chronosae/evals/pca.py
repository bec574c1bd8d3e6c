"""The PCA line: what k principal components explain, to set beside an autoencoder with k active features."""

import torch

from chronosae.evals.moments import SiteMoments


class PCALine:
    """Share of the variance explained by the k leading principal components of the evaluation's own activations.

    Fitted on the tokens it is measured on, so no affine code with k fixed directions does better there.
    """

    def __init__(self, moments: SiteMoments) -> None:
        eigenvalues = torch.linalg.eigvalsh(moments.scatter).flip(0).clamp_min(0)
        explained = torch.cat([eigenvalues.new_zeros(1), eigenvalues.cumsum(0)])
        self._explained = None if moments.constant else explained / explained[-1]
        self.d_in = len(eigenvalues)

    def at(self, k: int) -> float | None:
        """Explained variance of k components, 0 <= k; 1 from d_in on; None where the activations don't vary."""
        return None if self._explained is None else float(self._explained[min(k, self.d_in)])

    def curve(self) -> dict[int, float]:
        """The line at k = 1, 2, 4, ... and d_in; empty where the activations don't vary."""
        ks = sorted({*(2**power for power in range(self.d_in.bit_length()) if 2**power <= self.d_in), self.d_in})
        return {k: value for k in ks if (value := self.at(k)) is not None}
