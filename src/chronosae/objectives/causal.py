"""What fires is predicted from what fired before, and what co-fires over time interacts (DESIGN 5.C).

Everything follows the active codes of sampled tokens: no tensor has tokens x F or F x F elements. A lag counts
positions of the sequence; a pair of tokens counts when both are unmasked and in one document.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chronosae.autoencoders import Codes, Draws, SparseCodes
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.terms import TERMS, Weight
from chronosae.kernels import absent, firing_energy
from chronosae.objectives.active import active_codes
from chronosae.objectives.causal_head import PredictionHead, candidate_hits, check_dense, predict
from chronosae.objectives.history import EMPTY, sampled_history
from chronosae.objectives.term import StepContext, Term


@TERMS.add
class CausalPredictionTerm(Term):
    """Logistic prediction of what fires from what fired 1..window tokens before (DESIGN 5.C); codes are detached.

    `P(z_{t,i} > 0) = sigma(b_i + sum_k sum_j W^(k)_ij y_{t-k,j})`, y = z / RMS of z where it is active. The term is
    the negative log-likelihood in nats, summed over features, mean over tokens, estimated without bias from sampled
    tokens and sampled inactive features.
    """

    kind: Literal["causal_prediction"] = "causal_prediction"
    weight: Weight = 0.1
    window: Positive = 4
    """Lags looked back at."""
    rank: Positive = 16
    """Rank of each lag's low-rank part."""
    entries: Positive = 32
    """Candidate pairs (source, lag) that each target has a weight of its own for; filled by the correlation tracker."""
    refresh_every: Positive = 100
    """Steps between looks at the tracker's candidates; pairs that stay keep their weights."""
    dense: bool = False
    """A full matrix a lag instead of low rank plus candidates; refused above 4,096 features."""
    negatives: Positive = 64
    """Inactive features drawn a sequence, which all of its tokens share; each counts for F / negatives."""
    sample_tokens: Positive | None = 256
    """Target tokens a step; None: all."""
    tau: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """An interaction R counts when 2R - 1 exceeds this (the original logs also tried 0.15)."""
    lr_multiplier: Annotated[float, Field(gt=0)] = 10.0
    """Of the learning rate: log-odds are of order 1, far from where an encoder's weights start."""

    def check_spec(self, spec: Any) -> None:
        check_dense(self.dense, spec.d_sae)

    def make_head(self, d_in: int, d_sae: int) -> nn.Module:
        return PredictionHead(self, d_sae)

    def value(self, step: StepContext) -> Tensor:
        layout, head = step.layout("causal_prediction term"), prediction_head(step)
        codes = step.forward.codes.detach()
        _observe(head, codes, layout.mask)
        tracker = step.trackers.get("correlation")
        if tracker is not None and not head.dense and (step.draws.step + 1) % self.refresh_every == 0:
            refresh_from(head, tracker)
        mask, docs = layout.mask, layout.doc_ids
        return prediction_error(head, codes, mask, docs, step.draws, self.negatives, self.sample_tokens)


def _observe(head: PredictionHead, codes: Codes, mask: Bool[Tensor, "batch pos"]) -> None:
    if isinstance(codes, SparseCodes):
        sums = firing_energy(codes.indices.flatten(0, -2), codes.values.flatten(0, -2), mask.flatten(), codes.d_sae)
        head.observe_sums(*sums, int(mask.sum()))
    else:
        active = active_codes(codes, mask)
        head.observe(active.features, active.values, int(mask.sum()))


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


def prediction_head(step: StepContext) -> PredictionHead:
    """The head of the causal_prediction term.

    Raises:
        ValueError: there is none.
    """
    head = dict(step.sae.heads.items()).get("causal_prediction")
    if not isinstance(head, PredictionHead):
        raise ValueError("the correlation term needs the causal_prediction term, whose W it shares; add both")
    return head


@TERMS.add
class CorrelationTerm(Term):
    """RMS of `2R - 1` over sampled co-active pairs of different features: keeps interactions few (DESIGN 5.C).

    Needs the causal_prediction term, whose W it shares; gradients reach codes and W of the current step only.
    """

    per_energy: ClassVar[bool] = True
    kind: Literal["correlation"] = "correlation"
    weight: Weight = 0.1
    sample_tokens: Positive | None = 128
    """Target tokens a step; None: all."""

    def check_spec(self, spec: Any) -> None:
        if not any(term.kind == "causal_prediction" for term in spec.terms):
            raise ValueError("the correlation term needs the causal_prediction term, whose W it shares; add both")

    def value(self, step: StepContext) -> Tensor:
        layout, head = step.layout("correlation term"), prediction_head(step)
        mask, docs = layout.mask, layout.doc_ids
        pairs = interactions(head, step.forward.codes, mask, docs, step.draws, self.sample_tokens)
        return correlation_error(pairs)


class Interactions(NamedTuple):
    """Co-active pairs, one row each: feature `source` fired `lag` tokens before `target` did."""

    source: Int[Tensor, " p"]
    target: Int[Tensor, " p"]
    lag: Int[Tensor, " p"]
    R: Float[Tensor, " p"]
    """sigma(y_{t,i} W^(k)_ij y_{t-k,j})."""


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
