"""Temporal consistency: features that fire should keep their value over a window of tokens."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes, SparseCodes
from chronosae.kernels.window_variance import Windows, interval_energy, window_variance
from chronosae.objectives.active import Active, active_codes, squares_by_feature
from chronosae.objectives.spans import Spans, document_spans


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
