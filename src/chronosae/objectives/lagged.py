"""Codes explained by earlier and simultaneous codes; what stays unexplained should be sparse (arXiv 2509.23323).

Shapes: F features, c candidates a target.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes, Draws
from chronosae.autoencoders.parts.lagged import CandidateLaggedHead, DenseLaggedHead, LaggedTerm
from chronosae.autoencoders.parts.relations import EMPTY
from chronosae.autoencoders.trackers.history import History, as_slots
from chronosae.autoencoders.trackers.sketch import surprise
from chronosae.objectives.relations import sampled_history, sequences
from chronosae.objectives.terms import StepContext, computes

PURPOSE = "lagged tokens"
LARGEST = 32
"""Active features a token that the search for candidates looks at."""


def innovation_error(
    head: DenseLaggedHead | CandidateLaggedHead,
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"] | None,
    draws: Draws,
    sample_tokens: int | None = 256,
) -> Float[Tensor, ""]:
    """`mean_t ||z_t - sum_tau B_tau z_{t - tau} - M z_t||_1` over sampled tokens; 0 when all is masked.

    Tokens before the start of a document, masked ones and other sequences act on nothing. The work is
    tokens x F^2 x (lags + 1) for a dense head, tokens x F and the active codes' fan-out for one on candidates.
    """
    seen, _ = sampled_history(codes, mask, doc_ids, head.lags, draws, PURPOSE, sample_tokens)
    return innovations(head, seen).abs().sum() / max(len(seen.values), 1)


def innovations(head: DenseLaggedHead | CandidateLaggedHead, seen: History) -> Float[Tensor, "n F"]:
    """`eps_t` of each token."""
    dtype = next(head.parameters()).dtype
    values, past_values = seen.values.to(dtype), seen.past_values.to(dtype)
    explained = head.explain(seen.features, values, seen.past_features, past_values)
    return (-explained).scatter_add(1, seen.features, values)


@torch.no_grad()
def batch_candidates(
    seen: History, d_sae: int, count: int, same_time_only: bool = False
) -> tuple[Int[Tensor, "F c"], Int[Tensor, "F c"]]:
    """(source, lag) of the `count` co-activations that most exceed chance among these tokens, for every target.

    Lags 0..w, or lag 0 alone, whose sources come before their targets; EMPTY where fewer co-fired twice. The excess
    is z = (c - e) / sqrt(e + 1), e what features independent at their rates would give.
    """
    features, active = seen.features.unsqueeze(1), (seen.values != 0).unsqueeze(1)
    if not same_time_only:
        features = torch.cat([features, seen.past_features], 1)
        active = torch.cat([active, seen.past_values != 0], 1)
    span = features.shape[1] * d_sae
    source_key = torch.arange(features.shape[1], device=features.device).unsqueeze(1) * d_sae + features
    token, lag, i, j = (active[:, :1].transpose(1, 2).unsqueeze(1) & active.unsqueeze(2)).nonzero(as_tuple=True)
    target, source = seen.features[token, i], source_key[token, lag, j]
    possible = (lag > 0) | (source < target)
    pairs, counted = (target * span + source)[possible].unique(return_counts=True)
    pairs, counted = pairs[counted > 1], counted[counted > 1]
    target, source = pairs // span, pairs % span
    fired = torch.bincount(source_key[active], minlength=span).double()
    z = surprise(counted.double(), fired[source] * fired[target] / max(len(seen.values), 1))
    best, rank = _best_of_each(target, z, d_sae, count)
    chosen = torch.full((2, d_sae, count), EMPTY, device=target.device)
    chosen[0, target[best], rank] = source[best] % d_sae
    chosen[1, target[best], rank] = source[best] // d_sae
    return chosen[0], chosen[1].clamp(min=0)


def _best_of_each(
    group: Int[Tensor, " n"], score: Float[Tensor, " n"], n_groups: int, count: int
) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"]]:
    """The members with the `count` highest scores of each group, and their ranks."""
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    size = torch.bincount(group, minlength=n_groups)
    rank = torch.arange(len(group), device=group.device) - (size.cumsum(0) - size)[group[order]]
    return order[rank < count], rank[rank < count]


def _refresh(head: CandidateLaggedHead, step: StepContext, term: LaggedTerm) -> None:
    mask, doc_ids = sequences(term.kind, step)
    codes = as_slots(step.forward.codes.detach(), LARGEST)
    seen, _ = sampled_history(codes, mask, doc_ids, term.lags, step.draws, PURPOSE, term.sample_tokens)
    tracker = step.trackers.get("correlation")
    source, lag = batch_candidates(seen, codes.d_sae, term.entries, same_time_only=tracker is not None)
    if tracker is not None:
        held = tracker.candidates
        far = held.lag > term.lags
        source = torch.cat([held.source.masked_fill(far, EMPTY).to(source.device), source], 1)
        lag = torch.cat([held.lag.to(lag.device), lag], 1)
    head.admit(source, lag)


@computes(LaggedTerm)
def _lagged(term: LaggedTerm, step: StepContext) -> Tensor:
    mask, doc_ids = sequences(term.kind, step)
    head = step.sae.heads[term.kind]
    assert isinstance(head, DenseLaggedHead | CandidateLaggedHead)
    if isinstance(head, CandidateLaggedHead) and (step.draws.step + 1) % term.refresh_every == 0:
        _refresh(head, step, term)
    error = innovation_error(head, step.forward.codes, mask, doc_ids, step.draws, term.sample_tokens)
    # The trainer multiplies by alpha, which beta isn't to feel.
    return error + term.beta / term.weight * head.norms()
