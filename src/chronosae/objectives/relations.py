"""What fires is predicted from what fired before, and what co-fires over time interacts (DESIGN 5.C).

Everything follows the active codes of sampled tokens: no tensor has tokens x F or F x F elements. A lag counts
positions of the sequence; a pair of tokens counts when both are unmasked and in one document.
Shapes: n sampled tokens, w lags, k slots, q target features a token, m candidate entries a target.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from chronosae.autoencoders import Codes, Draws, SparseCodes
from chronosae.autoencoders.parts.relations import EMPTY, CausalPredictionTerm, CorrelationTerm, PredictionHead
from chronosae.autoencoders.trackers.history import History, as_slots, history, same_document
from chronosae.kernels import absent, firing_energy
from chronosae.objectives.active import active_codes
from chronosae.objectives.terms import StepContext, computes


class Interactions(NamedTuple):
    """Co-active pairs, one row each: feature `source` fired `lag` tokens before `target` did."""

    source: Int[Tensor, " p"]
    target: Int[Tensor, " p"]
    lag: Int[Tensor, " p"]
    R: Float[Tensor, " p"]
    """sigma(y_{t,i} W^(k)_ij y_{t-k,j})."""


def prediction_error(
    head: PredictionHead,
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"] | None,
    draws: Draws,
    negatives: int = 64,
    sample_tokens: int | None = 256,
) -> Float[Tensor, ""]:
    """`mean_t sum_i -log P(what z_{t,i} did)` in nats; its expectation over the draws is the full logistic loss.

    All active features of a sampled token are positives; of `negatives` features drawn uniformly a sequence, those
    inactive at the token count F / negatives each. Gradients reach the head, never the codes. 0 when all is masked.
    """
    codes = codes.detach()
    seen, row = sampled_history(codes, mask, doc_ids, head.window, draws, "prediction tokens", sample_tokens)
    if len(row) == 0:
        return head.b.sum() * 0.0
    drawn = draws.uniform("negatives", torch.empty(len(mask), negatives, dtype=torch.float64, device=mask.device))
    drawn = (drawn * codes.d_sae).long()[row]
    active = seen.values != 0
    inactive = absent(seen.features, seen.values, drawn, codes.d_sae)
    logits = predict(head, seen, torch.cat([seen.features, drawn], 1))
    k = active.shape[1]
    surprised = (functional.softplus(-logits[:, :k]) * active).sum()
    calm = (functional.softplus(logits[:, k:]) * inactive).sum() * (codes.d_sae / negatives)
    return (surprised + calm) / len(row)


def interactions(
    head: PredictionHead,
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"] | None,
    draws: Draws,
    sample_tokens: int | None = 128,
) -> Interactions:
    """R of all co-active pairs that end at sampled tokens; gradients reach codes and W."""
    seen, _ = sampled_history(codes, mask, doc_ids, head.window, draws, "interaction tokens", sample_tokens)
    W = head.block(seen.features, seen.past_features)
    if not head.dense:
        hit = candidate_hits(head, seen, seen.features)
        k = seen.past_values.shape[2]
        at = (hit.token, hit.place // k, hit.column, hit.place % k)
        W = W.index_put(at, head.values[hit.target, hit.entry], accumulate=True)
    together = (seen.past_values != 0).unsqueeze(2) & (seen.values != 0)[:, None, :, None]
    token, lag, i, j = together.nonzero(as_tuple=True)
    source, target = seen.past_features[token, lag, j], seen.features[token, i]
    y = head.scaled(target, seen.values[token, i]) * head.scaled(source, seen.past_values[token, lag, j])
    return Interactions(source, target, lag + 1, (W[token, lag, i, j] * y).sigmoid())


def correlation_error(pairs: Interactions, eps: float = 1e-12) -> Float[Tensor, ""]:
    """`sqrt(mean (2R - 1)^2 + eps)` over pairs of different features, 0 when there are none.

    `eps` keeps the gradient finite at W = 0, where every R is 0.5.
    """
    other = pairs.source != pairs.target
    square = (2 * pairs.R - 1).square()
    mean = torch.where(other, square, 0).sum() / other.sum().clamp(min=1)
    return (mean + eps).sqrt() - eps**0.5


def predict(head: PredictionHead, seen: History, targets: Int[Tensor, "n q"]) -> Float[Tensor, "n q"]:
    """Log-odds that each target feature fires at each token, given its past."""
    y = head.scaled(seen.past_features, seen.past_values)
    fast = head.lookup(targets, seen.past_features, y)
    if fast is not None:
        return fast
    logits = head.b[targets] + head.drive(targets, seen.past_features, y)
    if head.dense:
        return logits
    hit = candidate_hits(head, seen, targets)
    strength = head.values[hit.target, hit.entry] * y.flatten(1)[hit.token, hit.place]
    return logits.index_put((hit.token, hit.column), strength, accumulate=True)


class Hits(NamedTuple):
    """Candidate entries whose source fired: entry `entry` of the feature in `column` of a token's targets."""

    token: Int[Tensor, " h"]
    column: Int[Tensor, " h"]
    target: Int[Tensor, " h"]
    entry: Int[Tensor, " h"]
    place: Int[Tensor, " h"]
    """(lag - 1) * k + slot of the source in the token's past."""


def candidate_hits(head: PredictionHead, seen: History, targets: Int[Tensor, "n q"]) -> Hits:
    """Look every entry of every target up in the token's past: O(n q m), of which few pass a table of hashes."""
    F, m = head.source.shape
    n, w, k = seen.past_features.shape
    active = (seen.past_values != 0).flatten(1)
    keys = (torch.arange(w, device=targets.device).unsqueeze(-1) * F + seen.past_features).flatten(1)
    entry_keys = (head.lag - 1) * F + head.source
    # Column `size` takes what didn't fire; the one after it, which stays False, is where free entries look.
    size = 1 << (16 * w * k - 1).bit_length()
    fired = torch.zeros(n, size + 2, dtype=torch.bool, device=targets.device)
    fired.scatter_(1, torch.where(active, _hash(keys, size), size), True)
    look = torch.where(head.source == EMPTY, size + 1, _hash(entry_keys, size))
    token, flat = fired.gather(1, look[targets].flatten(1)).nonzero(as_tuple=True)
    column, entry = flat // m, flat % m
    target = targets[token, column]

    at, place = active.nonzero(as_tuple=True)
    ordered, order = (at * (w * F) + keys[at, place]).sort()
    wanted = token * (w * F) + entry_keys[target, entry]
    found = torch.searchsorted(ordered, wanted).clamp_(max=max(len(ordered) - 1, 0))
    hit = ordered[found] == wanted
    return Hits(token[hit], column[hit], target[hit], entry[hit], place[order[found[hit]]])


def _hash(keys: Int[Tensor, "*n"], size: int) -> Int[Tensor, "*n"]:
    """Keys spread over 0..size - 1, `size` a power of two."""
    return (keys * 0x9E3779B1 >> 15) & (size - 1)


def sampled_history(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"] | None,
    window: int,
    draws: Draws,
    purpose: str,
    n: int | None,
) -> tuple[History, Int[Tensor, " chosen"]]:
    """At most `n` unmasked tokens, equally likely, with their past, and the sequence each is from."""
    tokens = mask.nonzero()
    if n is not None and len(tokens) > n:
        order = draws.uniform(purpose, torch.empty(mask.shape, dtype=torch.float64, device=mask.device))
        tokens = tokens[order[mask].topk(n, sorted=False).indices.sort().values]
    return history(as_slots(codes), same_document(mask, doc_ids, window), tokens), tokens[:, 0]


def refresh_from(head: PredictionHead, tracker: Any) -> None:
    """Give the head the tracker's candidates, the most surprising where it holds more than fit."""
    held, room = tracker.candidates, head.source.shape[1]
    source, lag = held.source, held.lag
    source = source.masked_fill(lag > head.window, EMPTY)
    if source.shape[1] > room:
        everyone = torch.arange(len(source), device=source.device)
        best = held.surprise(tracker.marginals, everyone).masked_fill(source == EMPTY, -torch.inf).topk(room, 1).indices
        source, lag = source.gather(1, best), lag.gather(1, best)
    missing = room - source.shape[1]
    source = functional.pad(source, (0, missing), value=EMPTY).to(head.source.device)
    head.refresh(source, functional.pad(lag, (0, missing), value=1).to(head.source.device))


@computes(CausalPredictionTerm)
def _causal_prediction(term: CausalPredictionTerm, step: StepContext) -> Tensor:
    mask, doc_ids = sequences(term.kind, step)
    head = prediction_head(step)
    codes = step.forward.codes.detach()
    if isinstance(codes, SparseCodes):
        sums = firing_energy(codes.indices.flatten(0, -2), codes.values.flatten(0, -2), mask.flatten(), codes.d_sae)
        head.observe_sums(*sums, int(mask.sum()))
    else:
        active = active_codes(codes, mask)
        head.observe(active.features, active.values, int(mask.sum()))
    tracker = step.trackers.get("correlation")
    if tracker is not None and not head.dense and (step.draws.step + 1) % term.refresh_every == 0:
        refresh_from(head, tracker)
    return prediction_error(head, codes, mask, doc_ids, step.draws, term.negatives, term.sample_tokens)


@computes(CorrelationTerm)
def _correlation(term: CorrelationTerm, step: StepContext) -> Tensor:
    mask, doc_ids = sequences(term.kind, step)
    pairs = interactions(prediction_head(step), step.forward.codes, mask, doc_ids, step.draws, term.sample_tokens)
    return correlation_error(pairs)


def prediction_head(step: StepContext) -> PredictionHead:
    """The head of the causal_prediction term.

    Raises:
        ValueError: there is none.
    """
    head = dict(step.sae.heads.items()).get("causal_prediction")
    if not isinstance(head, PredictionHead):
        raise ValueError("the correlation term needs the causal_prediction term, whose W it shares; add both")
    return head


def sequences(kind: str, step: StepContext) -> tuple[Bool[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
    """Mask and documents of the step.

    Raises:
        ValueError: flat input, where no token has a past.
    """
    layout = step.forward.layout
    if layout is None:
        raise ValueError(f"the {kind} term looks at neighbours, so it needs activations [batch, pos, d_in]")
    return layout.mask, layout.doc_ids
