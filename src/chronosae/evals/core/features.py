"""Each feature on its own: how often it fires, where its weights point, and how both are spread over features."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.objectives.separation import cosine_separation, welch_floor

# Columns compared at a time: bounds memory at this many times d_sae.
COSINE_CHUNK = 512

LOWEST = -7.0
"""Densities below 1e-7 are counted with those at it."""
PER_DECADE = 4
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class FeatureTable:
    """One entry a feature, on the CPU. `fired` counts tokens, `prompts` sequences in which it fired at all."""

    n_tokens: int
    tokens_at_l0: Int[Tensor, " d_sae_and_one"]
    """Unmasked tokens with 0, 1, 2, ... active features."""
    fired: Int[Tensor, " d_sae"]
    prompts: Int[Tensor, " d_sae"]
    encoder_bias: Float[Tensor, " d_sae"]
    encoder_norm: Float[Tensor, " d_sae"]
    encoder_decoder_cosine_sim: Float[Tensor, " d_sae"]
    max_encoder_cosine_sim: Float[Tensor, " d_sae"]
    max_decoder_cosine_sim: Float[Tensor, " d_sae"]

    @property
    def density(self) -> Float[Tensor, " d_sae"]:
        """Share of the unmasked tokens on which each feature fires."""
        return self.fired.double() / self.n_tokens

    def summary(self) -> dict[str, float]:
        """SAEBench's `misc_metrics`."""
        density = self.density
        total = density.sum().clamp_min(torch.finfo(density.dtype).tiny)
        return {
            "frac_alive": float((density > 0).double().mean()),
            "freq_over_1_percent": float((density > 0.01).double().mean()),
            "freq_over_10_percent": float((density > 0.1).double().mean()),
            "normalized_freq_over_1_percent": float(density[density > 0.01].sum() / total),
            "normalized_freq_over_10_percent": float(density[density > 0.1].sum() / total),
            "average_max_encoder_cosine_sim": float(self.max_encoder_cosine_sim.double().mean()),
            "average_max_decoder_cosine_sim": float(self.max_decoder_cosine_sim.double().mean()),
        }


class FeatureCounts:
    """Accumulates how often features fire (value != 0) at unmasked tokens."""

    def __init__(self, d_sae: int) -> None:
        self.fired = torch.zeros(d_sae, dtype=torch.int64)
        self.prompts = torch.zeros(d_sae, dtype=torch.int64)
        self.tokens_at_l0 = torch.zeros(d_sae + 1, dtype=torch.int64)
        self.negative = False
        """A code below zero was seen; SAEBench counts those in l0 but not in densities."""

    def add(
        self, codes: Codes, mask: Bool[Tensor, "batch pos"]
    ) -> tuple[Int[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
        """Count one batch; returns each token's l0 and l1 (sum of |code|)."""
        active = (codes.values != 0) & mask.unsqueeze(-1)
        below = codes.values < 0
        self.negative = self.negative or bool(below.any() and (below & active).any())
        fired, prompts = _sparse_counts(codes, active) if isinstance(codes, SparseCodes) else _dense_counts(active)
        self.fired += fired.cpu()
        self.prompts += prompts.cpu()
        l0 = active.sum(-1)
        self.tokens_at_l0 += torch.bincount(l0[mask], minlength=len(self.tokens_at_l0)).cpu()
        return l0, codes.values.abs().sum(-1, dtype=torch.float64)


def _sparse_counts(codes: SparseCodes, active: Bool[Tensor, "batch pos slots"]) -> tuple[Tensor, Tensor]:
    feature = codes.indices[active]
    sequence = active.nonzero()[:, 0]
    pairs = (sequence * codes.d_sae + feature).unique() % codes.d_sae
    return torch.bincount(feature, minlength=codes.d_sae), torch.bincount(pairs, minlength=codes.d_sae)


def _dense_counts(active: Bool[Tensor, "batch pos d_sae"]) -> tuple[Tensor, Tensor]:
    by_sequence = active.sum(1)
    return by_sequence.sum(0), (by_sequence > 0).sum(0)


def feature_table(sae: Autoencoder, counts: FeatureCounts, n_tokens: int) -> FeatureTable:
    """Counts and weight geometry together. The cosine with a zero vector is 0 (SAEBench's own is NaN)."""
    W_enc, W_dec = sae.W_enc.detach().float(), sae.W_dec.detach().float()
    return FeatureTable(
        n_tokens=n_tokens,
        tokens_at_l0=counts.tokens_at_l0,
        fired=counts.fired,
        prompts=counts.prompts,
        encoder_bias=sae.b_enc.detach().float().cpu(),
        encoder_norm=W_enc.norm(dim=0).cpu(),
        encoder_decoder_cosine_sim=(normalize(W_enc.T, dim=1) * normalize(W_dec, dim=1)).sum(1).cpu(),
        max_encoder_cosine_sim=max_cosine(W_enc.T).cpu(),
        max_decoder_cosine_sim=max_cosine(W_dec).cpu(),
    )


def decoder_spread(sae: Autoencoder) -> dict[str, float]:
    """How far decoder rows point apart, and the least that so many directions allow (Welch 1974)."""
    with torch.no_grad():
        separation = float(cosine_separation(sae.W_dec.detach().float()))
    return {"decoder_cosine_separation": separation, "decoder_welch_floor": welch_floor(sae.d_sae, sae.d_in)}


def max_cosine(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Largest cosine similarity of each vector with any other (-1 for a vector alone).

    All pairs are compared: time grows as n^2 d (7e13 multiply-adds at n = 131,072, d = 4096), memory as
    COSINE_CHUNK x n.
    """
    unit = normalize(vectors, dim=1)
    largest = []
    for start in range(0, len(unit), COSINE_CHUNK):
        cosines = unit[start : start + COSINE_CHUNK] @ unit.T
        cosines.diagonal(offset=start).fill_(-1.0)
        largest.append(cosines.max(dim=1).values)
    return torch.cat(largest)


def histograms(features: FeatureTable) -> dict[str, Any]:
    """`l0`: quantiles over tokens. `density`: features by log10 of their density (edges one longer than counts), and
    those that never fired apart."""
    at = features.tokens_at_l0
    cumulative = at.cumsum(0)
    wanted = torch.tensor(QUANTILES, dtype=torch.float64) * float(cumulative[-1])
    levels = torch.searchsorted(cumulative.double(), wanted.clamp(min=1))
    density = features.density
    bins = int(-LOWEST * PER_DECADE)
    edges = torch.linspace(LOWEST, 0.0, bins + 1, dtype=torch.float64)
    logs = density[density > 0].log10().clamp(LOWEST, 0.0)
    place = torch.bucketize(logs, edges, right=True).clamp(1, bins) - 1
    return {
        "l0": {str(q): int(level) for q, level in zip(QUANTILES, levels.tolist(), strict=True)},
        "density": {
            "log10_edges": edges.tolist(),
            "features": torch.bincount(place, minlength=bins).tolist(),
            "never_fired": int((density == 0).sum()),
        },
    }
