"""How sparsity is spread: over tokens (L0), over features (densities)."""

from typing import Any

import torch

from chronosae.evals.features import FeatureCounts, FeatureTable

LOWEST = -7.0
"""Densities below 1e-7 are counted with those at it."""
PER_DECADE = 4
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def histograms(features: FeatureTable, counts: FeatureCounts) -> dict[str, Any]:
    """`l0`: quantiles over tokens. `density`: features by log10 of their density (edges one longer than counts), and
    those that never fired apart."""
    at = counts.tokens_at_l0
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
