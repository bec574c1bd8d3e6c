"""Consistency: features that fire should keep their value over a window of tokens, and not depend on the position."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from chronosae.autoencoders import Codes, SparseCodes
from chronosae.autoencoders.parts.terms import TERMS, Weight
from chronosae.kernels import Windows, interval_energy, window_variance
from chronosae.objectives.active import (
    Active,
    Spans,
    active_codes,
    count_fired,
    document_spans,
    squares_by_feature,
)
from chronosae.objectives.term import StepContext, Term


@TERMS.add
class ConsistencyTerm(Term):
    """Scale-free variance of each feature inside windows of w tokens (DESIGN 5.B)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["consistency"] = "consistency"
    weight: Weight = 0.1
    window: int = Field(default=8, ge=2)
    """Consecutive unmasked tokens of one document in a window; one has no variance."""
    by_persistence: bool = False
    """Multiply each feature's share by P(it fires | it fired a token before): what never persists is left alone."""

    def value(self, step: StepContext) -> Tensor:
        layout, doc_ids = step.documents("consistency term")
        codes = step.forward.codes
        return consistency_error(codes, layout.mask, doc_ids, self.window, by_persistence=self.by_persistence)


def consistency_error(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"],
    window: int = 8,
    eps: float = 1e-6,
    *,
    by_persistence: bool = False,
) -> Float[Tensor, ""]:
    """`mean_f [ mean_W Var_{t in W}(z_tf) / (E_t[z_tf^2] + eps) ]`, f over the features that fired in the batch.

    W runs over all windows of `window` consecutive unmasked tokens of one document of one sequence (masked tokens are
    skipped over), Var is the population variance, E the mean over the batch's unmasked tokens; the gradient goes
    through both. It is free of scale, so shrinking the codes doesn't lower it; `eps`, in squared units of the codes,
    only keeps features that barely fire from dominating the gradient. With `by_persistence` each feature's summand is
    multiplied by `P(f fires at t | f fired at t - 1)`, counted over the batch and without gradient: a feature that
    never stays is left alone, instead of being bent or merged into one that does. 0 when no document holds a window or
    nothing fired.

    O(active codes) time and memory for sparse codes, whatever the window: nothing of tokens x d_sae is made.

    Raises:
        ValueError: `window` is less than 2, where every variance is 0.
    """
    if window < 2:
        raise ValueError(f"window is {window}; the variance within a window needs at least 2 tokens")
    spans = document_spans(mask, doc_ids)
    enter, leave = _windows_of_tokens(spans, window)
    windows = Windows(window, enter, leave, torch.arange(len(spans.tokens), device=mask.device) > spans.start)
    n_windows = int((leave - enter).sum()) // window  # every window holds `window` tokens
    fired = _active_features(codes, mask)
    if n_windows == 0 or fired == 0:
        return codes.values.sum() * 0.0
    rank = torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
    rank[spans.tokens] = torch.arange(len(spans.tokens), device=mask.device)
    error = _fused(codes, mask, rank, windows, eps, by_persistence)
    if error is None:
        error = _by_sorting(active_codes(codes, mask), rank, windows, codes.d_sae, eps, by_persistence)
    return (error / (n_windows * fired)).to(codes.values.dtype)


def _active_features(codes: Codes, mask: Bool[Tensor, "batch pos"]) -> int:
    """How many features fired at an unmasked token."""
    fired = (codes.values != 0) & mask.unsqueeze(-1)
    if not isinstance(codes, SparseCodes):
        return int(fired.flatten(0, 1).any(0).sum())
    seen = torch.zeros(codes.d_sae + 1, dtype=torch.bool, device=mask.device)
    seen[torch.where(fired, codes.indices, codes.d_sae).flatten()] = True
    return int(seen[:-1].sum())


def _fused(
    codes: Codes, mask: Bool[Tensor, "batch pos"], rank: Int[Tensor, " n"], windows: Windows, eps: float, weigh: bool
) -> Float[Tensor, ""] | None:
    """The sum over features, in one pass over the slots of sparse codes; None where that can't be done."""
    if not isinstance(codes, SparseCodes):
        return None
    values = torch.where(mask.unsqueeze(-1), codes.values, 0).flatten()
    ranks = rank.repeat_interleave(codes.values.shape[-1])
    return window_variance(values, codes.indices.flatten(), ranks, windows, codes.d_sae, eps, weigh)


def _by_sorting(
    active: Active, rank: Int[Tensor, " n"], windows: Windows, d_sae: int, eps: float, weigh: bool
) -> Float[Tensor, ""]:
    """The same from all active codes, with torch's own operations."""
    n_tokens, window = len(windows.enter), windows.length
    scale = (squares_by_feature(active, d_sae) / n_tokens + eps).rsqrt()
    # By feature, then time: the order in which activations enter (and leave) the windows' running sums.
    key, order = (active.features * (n_tokens + 1) + rank[active.tokens]).sort()
    features = key.div(n_tokens + 1, rounding_mode="floor")
    ranks = key - features * (n_tokens + 1)
    values = active.values.index_select(0, order) * scale.index_select(0, features)
    if weigh:
        share = _persistence(features, key, windows.later[ranks], d_sae)
        values = values * share.to(values.dtype).sqrt().index_select(0, features)
    enter, leave = windows.enter[ranks], windows.leave[ranks]
    squares = (values.square() * (leave - enter)).sum() / window
    squared_means = interval_energy(values, key + (enter - ranks), key + (leave - ranks)) / window**2
    return squares - squared_means


def _persistence(
    features: Int[Tensor, " e"], key: Int[Tensor, " e"], later: Bool[Tensor, " e"], d_sae: int
) -> Float[Tensor, " d_sae"]:
    """P(fires | fired at the token before) of each feature, from activations by feature and time.

    The token before is one rank lower, so one lower in `key`; `later` says whether the document has one.
    """
    follows = torch.zeros_like(later)
    follows[1:] = (key.diff() == 1) & later[1:]
    fired = torch.bincount(features[later], minlength=d_sae)
    return torch.bincount(features[follows], minlength=d_sae) / fired.clamp(min=1)


def _windows_of_tokens(spans: Spans, window: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Which windows hold each token, a window being named by the rank of its last token: `enter <= window < leave`."""
    ranks = torch.arange(len(spans.tokens), device=spans.tokens.device)
    enter = torch.maximum(ranks, spans.start + window - 1)
    leave = torch.minimum(ranks + window, spans.end)
    short = leave <= enter  # documents shorter than a window; equal times keep both lists ascending
    return torch.where(short, ranks, enter), torch.where(short, ranks, leave)


@TERMS.add
class CrossPositionTerm(Term):
    """Variance over positions of each feature's mean activation, corrected for sampling noise (DESIGN 5.B)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["cross_position"] = "cross_position"
    weight: Weight = 0.1

    def value(self, step: StepContext) -> Tensor:
        layout = step.layout("cross_position term")
        return cross_position_error(step.forward.codes, layout.mask, layout.positions)


def cross_position_error(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    positions: Int[Tensor, "batch pos"],
    eps: float = 1e-6,
    min_count: int = 8,
) -> Float[Tensor, ""]:
    """`mean_f Var_p(mu_fp) / (E_t[z_tf^2] + eps)`, f over the features that fired, noise of sampling taken out.

    mu_fp is the mean of z_f over the n_p unmasked tokens at position p; p runs over the P positions with
    `n_p >= min_count`; E is the mean over all unmasked tokens of the batch. Var_p is the population variance less what
    sampling alone puts there, `(1 - 1/P) mean_p s_fp^2 / n_p`, s_fp^2 the sample variance at p: where a feature's
    distribution is the same at all positions the numerator is 0 on average (so it can be slightly negative). 0 when
    fewer than 2 positions count or nothing fired. `eps` is in squared units of the codes.

    Time and memory follow the active codes: sums are kept for pairs (feature, position) that occur.

    Raises:
        ValueError: `min_count` is less than 2, where a position has no sample variance.
    """
    if min_count < 2:
        raise ValueError(f"min_count is {min_count}; the noise of a position's mean needs at least 2 tokens there")
    active = active_codes(codes, mask)
    seen, at = positions[mask].unique(return_inverse=True)
    counts = torch.bincount(at, minlength=len(seen))
    eligible = counts >= min_count
    n_positions = int(eligible.sum())
    if n_positions < 2 or len(active.values) == 0:
        return codes.values.sum() * 0.0
    scale = (squares_by_feature(active, codes.d_sae) / len(at) + eps).rsqrt()

    place = torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
    place[mask.flatten()] = at
    place = place[active.tokens]
    kept = eligible[place].nonzero().squeeze(1)
    place, features = place[kept], active.features[kept]
    values = active.values.index_select(0, kept) * scale.index_select(0, features)
    n = counts[place].double()

    # With S1 and S2 a pair's sums of z and z^2: mu = S1 / n and s^2 / n = (S2 - S1^2 / n) / (n (n - 1)).
    pairs, pair = (features * len(seen) + place).unique(return_inverse=True)
    sums_squared = values.new_zeros(len(pairs)).index_add(0, pair, values).square()
    n_pair = counts[pairs % len(seen)].double()
    means = values.new_zeros(codes.d_sae).index_add(0, features, values / n) / n_positions
    variance = (sums_squared / n_pair.square()).sum() / n_positions - means.square().sum()
    noise = (values.square() / (n * (n - 1))).sum() - (sums_squared / (n_pair.square() * (n_pair - 1))).sum()
    error = variance - noise * (1 - 1 / n_positions) / n_positions
    return (error / count_fired(active, codes.d_sae)).to(codes.values.dtype)
