"""Which latent stands for which planted feature."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Matching:
    """One-to-one, by decoder direction. Where latents are fewer, some features have none: latent -1, cosine 0."""

    latent: Int[Tensor, " features"]
    """The latent of each planted feature, or -1."""
    cosine: Float[Tensor, " features"]
    """Cosine between its decoder row and the planted direction. Signed: activations are positive on both sides."""
    d_sae: int

    def feature_of(self) -> Int[Tensor, " d_sae"]:
        """The planted feature of each latent, or -1."""
        names = torch.full((self.d_sae,), -1)
        found = self.latent >= 0
        names[self.latent[found]] = found.nonzero().squeeze(1)
        return names


def match(W_dec: Float[Tensor, "d_sae d_in"], dictionary: Float[Tensor, "features d_in"]) -> Matching:
    """The assignment of latents to planted features that maximises the sum of cosines (Hungarian algorithm).

    Rows of zero norm have cosine 0 with everything.

    Raises:
        ValueError: NaN or Inf in either matrix.
    """
    W_dec, dictionary = W_dec.detach().double().cpu(), dictionary.double().cpu()
    if not (torch.isfinite(W_dec).all() and torch.isfinite(dictionary).all()):
        raise ValueError("match: the decoder or the dictionary holds NaN or Inf")
    cosine = functional.normalize(dictionary, dim=1) @ functional.normalize(W_dec, dim=1).T
    feature, chosen = (torch.from_numpy(side) for side in linear_sum_assignment(cosine.numpy(), maximize=True))
    latent, best = torch.full((len(dictionary),), -1), torch.zeros(len(dictionary), dtype=torch.float64)
    latent[feature], best[feature] = chosen, cosine[feature, chosen]
    return Matching(latent, best, len(W_dec))


def mcc(matching: Matching) -> float:
    """Mean cosine over planted features under the best one-to-one matching; a feature without a latent counts 0."""
    return float(matching.cosine.mean())
