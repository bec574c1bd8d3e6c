"""Temporal consistency: features that fire should keep their value over a window of tokens."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.kernels.window_variance import interval_energy
from chronosae.objectives.active import active_codes, count_fired, squares_by_feature
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
    active = active_codes(codes, mask)
    n_windows = int((leave - enter).sum()) // window  # every window holds `window` tokens
    if n_windows == 0 or len(active.values) == 0:
        return codes.values.sum() * 0.0
    scale = (squares_by_feature(active, codes.d_sae) / len(spans.tokens) + eps).rsqrt()

    # By feature, then time: the order in which activations enter (and leave) the windows' running sums.
    n_tokens = len(spans.tokens)
    rank = torch.empty(mask.numel(), dtype=torch.long, device=mask.device)
    rank[spans.tokens] = torch.arange(n_tokens, device=mask.device)
    key, order = (active.features * (n_tokens + 1) + rank[active.tokens]).sort()
    features = key.div(n_tokens + 1, rounding_mode="floor")
    ranks = key - features * (n_tokens + 1)
    values = active.values.index_select(0, order) * scale.index_select(0, features)
    if by_persistence:
        share = _persistence(features, key, (ranks > spans.start[ranks]), codes.d_sae)
        values = values * share.to(values.dtype).sqrt().index_select(0, features)
    enter, leave = enter[ranks], leave[ranks]

    squares = (values.square() * (leave - enter)).sum() / window
    squared_means = interval_energy(values, key + (enter - ranks), key + (leave - ranks)) / window**2
    error = (squares - squared_means) / (n_windows * count_fired(active, codes.d_sae))
    return error.to(codes.values.dtype)


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
