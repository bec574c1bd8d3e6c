"""Scores of an autoencoder's codes against planted truth, each a pure function of codes.

Latents are matched to planted features; then it is counted whether they fire where these do, how well slow and
position-dependent ones are found, and how codes change over time.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from chronosae.autoencoders import Codes, SparseCodes


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


@dataclass(frozen=True)
class Entries:
    """The nonzero codes of unmasked tokens, ordered by `key = token * width + feature`, each key once.

    What the scores count with, so that nothing of size tokens x F is made.
    """

    key: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    width: int

    @property
    def feature(self) -> Int[Tensor, " n"]:
        """Feature of each entry."""
        return self.key % self.width

    def where(self, chosen: Bool[Tensor, " n"]) -> "Entries":
        """The entries chosen."""
        return Entries(self.key[chosen], self.value[chosen], self.width)

    def renamed(self, names: Int[Tensor, " width"], width: int) -> "Entries":
        """Feature f becomes `names[f]`; entries whose name is negative are dropped. Names must not repeat."""
        name = names[self.feature]
        key = torch.div(self.key, self.width, rounding_mode="floor") * width + name
        kept = name >= 0
        key, order = key[kept].sort()
        return Entries(key, self.value[kept][order], width)

    def shifted(self, tokens: int) -> "Entries":
        """Every entry moved later by that many tokens (earlier if negative)."""
        return Entries(self.key + tokens * self.width, self.value, self.width)

    def partner(self, other: "Entries") -> Float[Tensor, " n"]:
        """For each entry the value of `other` at the same token and feature; 0 where it has none."""
        if not len(other.key):
            return torch.zeros_like(self.value)
        place = torch.searchsorted(other.key, self.key).clamp_max(len(other.key) - 1)
        return torch.where(other.key[place] == self.key, other.value[place], 0)

    def sums(self, values: Float[Tensor, " n"]) -> Float[Tensor, " width"]:
        """Sum of `values` by feature."""
        return torch.zeros(self.width, dtype=values.dtype).index_add(0, self.feature, values)


def entries(codes: Codes, mask: Bool[Tensor, "batch pos"] | None = None) -> Entries:
    """The nonzero codes of `codes` at unmasked tokens, values in float64; tokens are counted through the batch.

    Raises:
        ValueError: a value is NaN or Inf.
    """
    values = codes.values.detach()
    if not torch.isfinite(values).all():
        raise ValueError("the codes hold NaN or Inf; nothing can be scored")
    if mask is not None:
        values = values * mask[..., None]
    flat = values.flatten(0, -2)
    token, slot = flat.nonzero(as_tuple=True)
    feature = codes.indices.flatten(0, -2)[token, slot] if isinstance(codes, SparseCodes) else slot
    key, order = (token * codes.d_sae + feature).sort()
    return Entries(key.cpu(), flat[token, slot][order].double().cpu(), codes.d_sae)


@dataclass(frozen=True)
class SupportScore:
    """Firing (`z != 0`) of matched latents against planted firing.

    Micro: TP, FP and FN summed over the features. Macro: mean over features that fire in the truth, each feature's
    precision counting 0 when its latent never fires.
    """

    precision: float | None
    """TP / (TP + FP); None when no latent fires."""
    recall: float
    """TP / (TP + FN)"""
    f1: float
    """2 TP / (2 TP + FP + FN)"""
    macro_precision: float
    macro_recall: float
    macro_f1: float


def support_f1(
    codes: Codes,
    true_codes: Codes,
    matching: Matching,
    features: Int[Tensor, " chosen"] | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> SupportScore:
    """Support precision, recall and F1 over the planted `features` (all by default) at unmasked tokens.

    A feature without a latent is never found. Latents that stand for none of the features count nowhere.

    Raises:
        ValueError: the features never fire at these tokens; shapes that differ; NaN or Inf in the codes.
    """
    found, true = aligned(codes, true_codes, matching, features, mask)
    n_true = true.sums(torch.ones_like(true.value))
    if not n_true.any():
        raise ValueError("support_f1: none of the planted features fires at an unmasked token")
    n_found = found.sums(torch.ones_like(found.value))
    hits = true.sums((true.partner(found) != 0).double())
    total = float(n_found.sum())
    fires = n_true > 0
    n_true, n_found, hits = n_true[fires], n_found[fires], hits[fires]
    return SupportScore(
        precision=float(hits.sum()) / total if total else None,
        recall=float(hits.sum() / n_true.sum()),
        f1=float(2 * hits.sum() / (n_true.sum() + total)),
        macro_precision=float((hits / n_found.clamp_min(1)).mean()),
        macro_recall=float((hits / n_true).mean()),
        macro_f1=float((2 * hits / (n_true + n_found)).mean()),
    )


def aligned(
    codes: Codes,
    true_codes: Codes,
    matching: Matching,
    features: Int[Tensor, " chosen"] | None,
    mask: Bool[Tensor, "batch pos"] | None,
) -> tuple[Entries, Entries]:
    """Entries of codes and of the truth, both by planted feature, for the features chosen."""
    if codes.values.shape[:-1] != true_codes.values.shape[:-1]:
        raise ValueError(f"codes of {list(codes.values.shape[:-1])} tokens, truth {list(true_codes.values.shape[:-1])}")
    if codes.d_sae != matching.d_sae or true_codes.d_sae != len(matching.latent):
        raise ValueError("the matching is not between these codes and this truth")
    found = entries(codes, mask).renamed(matching.feature_of(), true_codes.d_sae)
    true = entries(true_codes, mask)
    if features is None:
        return found, true
    chosen = torch.zeros(true_codes.d_sae, dtype=torch.bool)
    chosen[features] = True
    return found.where(chosen[found.feature]), true.where(chosen[true.feature])


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

    Args:
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


def lipschitz(
    codes: Codes,
    acts: Float[Tensor, "batch pos d_in"],
    mask: Bool[Tensor, "batch pos"],
    n_features: int | None = None,
) -> float:
    """Mean over features that fire in a sequence of `max_t |z_t - z_{t-1}| / ||x_t - x_{t-1}||`; lower is smoother.

    The smoothness of Bhalla et al. (arXiv 2511.05541), over the first `n_features` features (all by default).

    Raises:
        ValueError: none of the features fires.
    """
    z = codes.dense()[..., :n_features].double()
    moved = (acts[:, 1:] - acts[:, :-1]).double().norm(dim=-1, keepdim=True)
    # Between equal inputs no slope is defined.
    pairs = (mask[:, 1:] & mask[:, :-1]).unsqueeze(-1) & (moved > 1e-6 * acts.double().norm(dim=-1).mean())
    steepest = torch.where(pairs, (z[:, 1:] - z[:, :-1]).abs() / moved.clamp_min(1e-12), 0).amax(1)
    fires = (z != 0).any(1)
    if not fires.any():
        raise ValueError("lipschitz: none of the features fires")
    return float(steepest[fires].mean())
