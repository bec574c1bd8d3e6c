"""What an autoencoder is told about the scale and the centre of its site's activations."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.activations.harvest import ActivationStream
from chronosae.config import UserError

Kind = Literal["dataset", "token", "none"]


@dataclass(frozen=True)
class SiteScale:
    """What was measured at one site, over `n_tokens` unmasked tokens; the autoencoder's own `Normalisation` applies it.

    Training sees raw activations times `factor` = sqrt(d_in) / mean norm (`dataset`), every vector at norm sqrt(d_in)
    (`token`), or the raw ones (`none`). `mean` is the mean raw activation, `normalised_mean` the mean of what training
    sees, which is where b_dec starts.
    """

    kind: Kind
    factor: float
    mean: Float[Tensor, " d_in"]
    normalised_mean: Float[Tensor, " d_in"]
    n_tokens: int


def unit_rms(acts: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
    """Every vector at norm sqrt(d_in); a zero vector stays zero."""
    norm = acts.norm(dim=-1, keepdim=True)
    return acts * (math.sqrt(acts.shape[-1]) / norm.clamp(min=1e-12))


class _Sums:
    """Running sums at one site, in float64."""

    def __init__(self) -> None:
        self.n, self.norm = 0, 0.0
        self.raw: Tensor = torch.zeros(())
        self.unit: Tensor = torch.zeros(())

    def add(self, acts: Float[Tensor, "n d_in"]) -> None:
        acts = acts.double()
        self.n += acts.shape[0]
        self.norm += float(acts.norm(dim=-1).sum())
        self.raw = self.raw + acts.sum(0).cpu()
        self.unit = self.unit + unit_rms(acts).sum(0).cpu()


def measure(stream: ActivationStream, kind: Kind, n_tokens: int) -> dict[str, SiteScale]:
    """Scale and mean of every site over the first `n_tokens` unmasked tokens or a little more (whole batches).

    The stream is used up as far as it is read.

    Raises:
        UserError: the activations of a site are all zero, or not finite, or every token is masked.
    """
    sums: dict[str, _Sums] = {}
    empty = 0
    while not sums or min(each.n for each in sums.values()) < n_tokens:
        for site, batch in stream.next().items():
            sums.setdefault(site, _Sums()).add(batch.unmasked())
        # A corpus of special tokens alone would be read for ever.
        empty = empty + 1 if not any(each.n for each in sums.values()) else 0
        if empty == 64:
            raise UserError("every token of the corpus is special and masked: there is nothing to learn from")
    return {site: _scale(site, each, kind) for site, each in sums.items()}


def _scale(site: str, sums: _Sums, kind: Kind) -> SiteScale:
    mean_norm = sums.norm / sums.n
    if not math.isfinite(mean_norm) or mean_norm == 0:
        what = "all zero" if mean_norm == 0 else "not finite"
        raise UserError(f"activations at {site} are {what} over {sums.n} tokens: there is nothing to learn from")
    factor = math.sqrt(sums.raw.shape[0]) / mean_norm if kind == "dataset" else 1.0
    mean = sums.raw / sums.n
    normalised = sums.unit / sums.n if kind == "token" else mean * factor
    return SiteScale(kind, factor, mean.float(), normalised.float(), sums.n)
