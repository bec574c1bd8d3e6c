"""Codes as a linear process in time with sparse innovations (Song et al. 2025, arXiv 2509.23323).

    z_t = sum_tau B_tau z_{t - tau} + M z_t + eps_t,   M strictly lower triangular

Shapes: F features, L lags, m candidate entries a target, c candidates a target, n tokens.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders import Codes, Draws
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.terms import TERMS
from chronosae.objectives.causal_head import DENSE_FEATURES
from chronosae.objectives.history import EMPTY, History, as_slots, sampled_history
from chronosae.objectives.sketch import surprise
from chronosae.objectives.term import SteeredTerm, StepContext

PURPOSE = "lagged tokens"
LARGEST = 32
"""Active features a token that the search for candidates looks at."""


@TERMS.add
class LaggedTerm(SteeredTerm):
    """`alpha mean_t ||eps_t||_1 + beta (sum_tau ||B_tau||_1 + ||M||_1)`, alpha the weight (arXiv 2509.23323).

    eps = z_t - sum_tau B_tau z_{t - tau} - M z_t: minus the log-likelihood of Laplace innovations. Gradients reach
    codes, B and M. Steering and warm-up of the weight act on the whole term, beta included.

    An L1 norm fits the median: an effect that follows its cause less than half of the time stays at zero. With a small
    beta (0.001 on planted data) M explains codes by one another, and they grow dense while eps is sparse.
    """

    kind: Literal["lagged"] = "lagged"
    beta: Annotated[float, Field(ge=0)] = 1e-2
    """Weight of the norms of B and M."""
    lags: Positive = 4
    """Earlier tokens that act on a token."""
    entries: Positive = 32
    """Above 4,096 features: pairs (source, lag) that each target has a weight for; half of them at lag 0 (M)."""
    refresh_every: Positive = 100
    """Above 4,096 features: steps between looks for new candidates, which take the place of entries near zero."""
    sample_tokens: Positive | None = 256
    """Target tokens a step; None: all."""
    lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Of the learning rate of B and M."""

    def make_head(self, d_in: int, d_sae: int) -> nn.Module:
        return DenseLaggedHead(self, d_sae) if d_sae <= DENSE_FEATURES else CandidateLaggedHead(self, d_sae)

    def value(self, step: StepContext) -> Tensor:
        layout, head = step.layout("lagged term"), step.head(self.kind)
        assert isinstance(head, DenseLaggedHead | CandidateLaggedHead)
        if isinstance(head, CandidateLaggedHead) and (step.draws.step + 1) % self.refresh_every == 0:
            _refresh(head, step, self)
        mask, docs = layout.mask, layout.doc_ids
        error = innovation_error(head, step.forward.codes, mask, docs, step.draws, self.sample_tokens)
        # The trainer multiplies by alpha, which beta isn't to feel.
        return error + self.beta / self.weight * head.norms()


class DenseLaggedHead(nn.Module):
    """`B[tau - 1, i, j]` and `M[i, j]`: effect of source j on target i. Both start at zero."""

    def __init__(self, cfg: LaggedTerm, d_sae: int) -> None:
        super().__init__()
        self.lags, self.lr_multiplier = cfg.lags, cfg.lr_multiplier
        self.B = nn.Parameter(torch.zeros(cfg.lags, d_sae, d_sae))
        # The rest of M never gets a gradient, so it stays at zero.
        self.M = nn.Parameter(torch.zeros(d_sae, d_sae))

    def explain(
        self,
        features: Int[Tensor, "n k"],
        values: Float[Tensor, "n k"],
        past: Int[Tensor, "n L k"],
        past_values: Float[Tensor, "n L k"],
    ) -> Float[Tensor, "n F"]:
        """`sum_tau B_tau z_{t - tau} + M z_t`."""
        F, shape = len(self.M), past.shape[:2]
        now = values.new_zeros(len(values), F).scatter_add(1, features, values)
        before = values.new_zeros(*shape, F).scatter_add(2, past, past_values)
        return torch.einsum("nlj,lij->ni", before, self.B) + now @ self.M.tril(-1).T

    def norms(self) -> Float[Tensor, ""]:
        """`sum_tau ||B_tau||_1 + ||M||_1`."""
        return self.B.abs().sum() + self.M.tril(-1).abs().sum()


class CandidateLaggedHead(nn.Module):
    """B and M on candidate pairs only: `values[i, e]` is the effect of `source[i, e]`, `lag[i, e]` tokens before, on i.

    Lag 0 is M, whose sources come before their targets: `source[i, e] < i`. Free entries have source EMPTY. The last
    half of a target's entries is M's.
    """

    source: Tensor
    lag: Tensor
    by_source: Tensor
    """Entries (i m + e) in order of (lag, source), [F m]; the free ones last."""
    first: Tensor
    """Where each (lag, source) begins in `by_source`, [(L + 1) F + 1]."""

    def __init__(self, cfg: LaggedTerm, d_sae: int) -> None:
        super().__init__()
        self.lags, self.lr_multiplier = cfg.lags, cfg.lr_multiplier
        self.lagged_entries = (cfg.entries + 1) // 2
        self.values = nn.Parameter(torch.zeros(d_sae, cfg.entries))
        self.register_buffer("source", torch.full((d_sae, cfg.entries), EMPTY))
        self.register_buffer("lag", torch.zeros(d_sae, cfg.entries, dtype=torch.int64))
        self.register_buffer("by_source", torch.arange(d_sae * cfg.entries))
        self.register_buffer("first", torch.zeros((cfg.lags + 1) * d_sae + 1, dtype=torch.int64))

    def explain(
        self,
        features: Int[Tensor, "n k"],
        values: Float[Tensor, "n k"],
        past: Int[Tensor, "n L k"],
        past_values: Float[Tensor, "n L k"],
    ) -> Float[Tensor, "n F"]:
        """`sum_tau B_tau z_{t - tau} + M z_t`: every active code is sent to the targets that hold it as a source."""
        F, m = self.source.shape
        fired = torch.cat([features.unsqueeze(1), past], 1)
        value = torch.cat([values.unsqueeze(1), past_values], 1)
        token, lag, slot = (value != 0).nonzero(as_tuple=True)
        key = lag * F + fired[token, lag, slot]
        fan_out = self.first[key + 1] - self.first[key]
        event = torch.arange(len(key), device=key.device).repeat_interleave(fan_out)
        within = torch.arange(len(event), device=key.device) - (fan_out.cumsum(0) - fan_out)[event]
        entry = self.by_source[self.first[key][event] + within]
        sent = value[token, lag, slot][event] * self.values.flatten()[entry]
        explained = values.new_zeros(len(values) * F).index_add(0, token[event] * F + entry // m, sent)
        return explained.view(len(values), F)

    def norms(self) -> Float[Tensor, ""]:
        """`sum_tau ||B_tau||_1 + ||M||_1`."""
        return self.values.abs().sum()

    @torch.no_grad()
    def admit(self, source: Int[Tensor, "F c"], lag: Int[Tensor, "F c"], near_zero: float = 1e-3) -> None:
        """Let new candidates take free entries and those that the norm has brought near zero, at weight 0.

        Candidates (the first come first) are lagged or same-time (lag 0), EMPTY where there is none. Same-time ones
        whose source doesn't come before their target are dropped, and so are those already held.
        """
        target = torch.arange(len(source), device=source.device).unsqueeze(1)
        impossible = (lag == 0) & (source >= target)
        source = source.masked_fill(impossible, EMPTY)
        half = self.lagged_entries
        for columns, mine in ((slice(None, half), lag > 0), (slice(half, None), lag == 0)):
            self._place(columns, source.masked_fill(~mine, EMPTY), lag, near_zero)
        keys = torch.where(self.source == EMPTY, len(self.first), self.lag * len(source) + self.source).flatten()
        ordered, order = keys.sort(stable=True)
        self.by_source.copy_(order)
        self.first.copy_(torch.searchsorted(ordered, torch.arange(len(self.first), device=keys.device)))

    def _place(self, columns: slice, source: Tensor, lag: Tensor, near_zero: float) -> None:
        held_source, held_lag, values = self.source[:, columns], self.lag[:, columns], self.values[:, columns]
        held = (source.unsqueeze(2) == held_source.unsqueeze(1)) & (lag.unsqueeze(2) == held_lag.unsqueeze(1))
        new = (source != EMPTY) & ~held.any(2)
        order = (~new).to(torch.int8).sort(dim=1, stable=True).indices
        # An entry that is named again stays, however small its weight is yet.
        open_ = (held_source == EMPTY) | ((values.abs() < near_zero) & ~held.any(1))
        rank = open_.cumsum(1) - 1
        taken = open_ & (rank < new.sum(1, keepdim=True))
        chosen = order.gather(1, rank.clamp(0, source.shape[1] - 1))
        self.source[:, columns] = torch.where(taken, source.gather(1, chosen), held_source)
        self.lag[:, columns] = torch.where(taken, lag.gather(1, chosen), held_lag)
        self.values[:, columns] = torch.where(taken, 0, values)


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
    layout = step.layout("lagged term")
    codes = as_slots(step.forward.codes.detach(), LARGEST)
    mask, docs = layout.mask, layout.doc_ids
    seen, _ = sampled_history(codes, mask, docs, term.lags, step.draws, PURPOSE, term.sample_tokens)
    tracker = step.trackers.get("correlation")
    source, lag = batch_candidates(seen, codes.d_sae, term.entries, same_time_only=tracker is not None)
    if tracker is not None:
        held = tracker.candidates
        far = held.lag > term.lags
        source = torch.cat([held.source.masked_fill(far, EMPTY).to(source.device), source], 1)
        lag = torch.cat([held.lag.to(lag.device), lag], 1)
    head.admit(source, lag)
