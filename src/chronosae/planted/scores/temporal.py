"""Scores of what features do over time and over positions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes
from chronosae.planted.scores.entries import Entries, entries
from chronosae.planted.scores.matching import Matching
from chronosae.planted.scores.support import aligned, support_f1


@dataclass(frozen=True)
class SlowRecovery:
    """How well planted slow features were found."""

    share_matched: float
    """Share whose latent has a cosine of at least the threshold."""
    f1: float
    """Micro support F1."""
    correlation: float
    """Mean over the features that vary of the Pearson correlation, over tokens, between the latent's and the planted
    activation; a feature counts 0 without a latent, or with one that never varies."""


@dataclass(frozen=True)
class Autocorrelation:
    """Lag-1 autocorrelation of the features for which it exists."""

    mean: float
    features: Int[Tensor, " n"]
    values: Float[Tensor, " n"]


def slow_feature_recovery(
    codes: Codes,
    true_codes: Codes,
    matching: Matching,
    features: Int[Tensor, " chosen"],
    mask: Bool[Tensor, "batch pos"] | None = None,
    min_cosine: float = 0.9,
) -> SlowRecovery:
    """Recovery of the planted `features` (those that are slow) at unmasked tokens.

    Raises:
        ValueError: no feature given, or none fires, or none varies, at these tokens.
    """
    if not len(features):
        raise ValueError("slow_feature_recovery: no planted feature given")
    f1 = support_f1(codes, true_codes, matching, features, mask).f1
    found, true = aligned(codes, true_codes, matching, features, mask)
    n = float(mask.sum()) if mask is not None else float(true_codes.values.shape[:-1].numel())
    # NaN where a side does not vary: then the truth leaves the feature out, the latent counts as uncorrelated.
    varies = ~_correlation(true, true, n).isnan()
    if not varies.any():
        raise ValueError("slow_feature_recovery: no planted feature varies over these tokens")
    correlation = _correlation(true, found, n)[varies].nan_to_num(0)
    return SlowRecovery(
        share_matched=float((matching.cosine[features] >= min_cosine).double().mean()),
        f1=f1,
        correlation=float(correlation.mean()),
    )


def position_weights(
    codes: Codes, positions: Int[Tensor, "batch pos"], n_positions: int, mask: Bool[Tensor, "batch pos"] | None = None
) -> Float[Tensor, "positions d_sae"]:
    """Activation mass `sum |z|` of each latent at each position: what `position_mass` takes of codes.

    Raises:
        ValueError: a position outside 0 .. n_positions - 1; NaN or Inf in the codes.
    """
    active = entries(codes, mask)
    place = positions.flatten().cpu()[torch.div(active.key, active.width, rounding_mode="floor")]
    if len(place) and not 0 <= int(place.min()) <= int(place.max()) < n_positions:
        raise ValueError(f"position_weights: positions must lie in 0 .. {n_positions - 1}")
    cell = place * active.width + active.feature
    mass = torch.zeros(n_positions * active.width, dtype=torch.float64).index_add(0, cell, active.value.abs())
    return mass.view(n_positions, active.width)


def position_mass(
    weights: Float[Tensor, "rows d_sae"],
    matching: Matching,
    profile: Bool[Tensor, "features positions"],
    features: Int[Tensor, " chosen"] | None = None,
) -> float:
    """Mean over planted features of `sum_{p in its positions} w[p, latent] / sum_p w[p, latent]`.

    A feature without a latent, or whose latent has no weight anywhere, counts 0. A latent that knows nothing of
    position scores the share of positions that are the feature's.

    Arguments:
        weights: mass of activations (`position_weights`) or a position mask, a row each position; not negative.
        features: by default those whose profile leaves a position out.

    Raises:
        ValueError: no such feature; negative weights, NaN or Inf; weights of another matching or length.
    """
    if weights.shape != (profile.shape[1], matching.d_sae):
        raise ValueError(f"position_mass: weights {list(weights.shape)}, not {[profile.shape[1], matching.d_sae]}")
    weights = weights.detach().double().cpu()
    if not (torch.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("position_mass: weights must be finite and not negative")
    if features is None:
        features = (~profile.all(1)).nonzero().squeeze(1)
    if not len(features):
        raise ValueError("position_mass: no planted feature depends on position")
    latent = matching.latent[features]
    mass = weights[:, latent.clamp_min(0)].T * (latent >= 0)[:, None]
    total = mass.sum(1)
    inside = (mass * profile[features]).sum(1)
    return float(torch.where(total > 0, inside / total.clamp_min(1e-300), 0).mean())


def lag1_autocorrelation(
    codes: Codes, mask: Bool[Tensor, "batch pos"] | None = None, doc_ids: Int[Tensor, "batch pos"] | None = None
) -> Autocorrelation:
    """Per feature the Pearson correlation of z_t with z_{t+1} over all neighbouring tokens.

    Neighbours are both unmasked, in one sequence and one document. Features that do not vary on either side are left
    out; the mean is over the others.

    Raises:
        ValueError: no feature varies, or there are no neighbours; NaN or Inf in the codes.
    """
    shape = codes.values.shape[:-1]
    linked = torch.ones(shape, dtype=torch.bool)
    linked[:, -1] = False
    if mask is not None:
        linked[:, :-1] &= mask[:, :-1].cpu() & mask[:, 1:].cpu()
    if doc_ids is not None:
        linked[:, :-1] &= (doc_ids[:, :-1] == doc_ids[:, 1:]).cpu()
    n = float(linked.sum())
    has_next, has_previous = linked.flatten(), linked.flatten().roll(1)
    everything = entries(codes, mask)
    token = torch.div(everything.key, everything.width, rounding_mode="floor")
    now, after = everything.where(has_next[token]), everything.where(has_previous[token])
    values = _correlation(now, after.shifted(-1), n) if n else torch.full((codes.d_sae,), torch.nan)
    features = (~values.isnan()).nonzero().squeeze(1)
    if not len(features):
        raise ValueError("lag1_autocorrelation: no feature varies over neighbouring unmasked tokens")
    return Autocorrelation(float(values[features].mean()), features, values[features])


def _correlation(a: Entries, b: Entries, n: float) -> Float[Tensor, " width"]:
    """Pearson correlation of two codes over n tokens, by feature; NaN where either does not vary."""
    mean_a, mean_b = a.sums(a.value) / n, b.sums(b.value) / n
    var_a, var_b = a.sums(a.value**2) / n - mean_a**2, b.sums(b.value**2) / n - mean_b**2
    covariance = a.sums(a.value * a.partner(b)) / n - mean_a * mean_b
    varies = (var_a > 1e-12 * (var_a + mean_a**2)) & (var_b > 1e-12 * (var_b + mean_b**2))
    return torch.where(varies, covariance / (var_a * var_b).clamp_min(1e-300).sqrt(), torch.nan)
