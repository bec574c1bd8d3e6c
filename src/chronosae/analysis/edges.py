"""Lagged edges by ridge regression: which features at t - l predict that a feature fires at t.

Neither co-activation, lift, z nor the original interaction score tells a cause from frequency, persistence or topic.
Regression on a target's candidates and its own past removes persistence; the bar on effect size removes topics, whose
partial coefficients are small; pruning removes what a path through a third feature explains.

Candidates and their covariances come from exact counts (`LaggedCounts`, small dictionaries) or a tracker's. Shapes: R
targets at a time, r regressors each: m candidates (source, lag), then the target's own lags.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes
from chronosae.config import UserError
from chronosae.objectives import RegressorCounts, TemporalCorrelationTracker, as_slots, same_document, surprise
from chronosae.objectives.history import history

MAX_FEATURES = 4096
PAIRS_AT_A_TIME = 2**20
TARGETS_AT_A_TIME = 256
RIDGE, FLOOR = 1e-3, 1e-7
MIN_T, MIN_SUPPORT, MIN_FIRED = 5.0, 10, 50
STRONG, CANDIDATE = 0.1, 0.05
TOLERANCE = 0.6


@dataclass(frozen=True)
class EdgeSet:
    """Edges source(t - lag) -> target(t), strongest first.

    `weight` is about the firing probability the source adds to the target; `t` its t statistic; `support` the tokens on
    which both fired.
    """

    source: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]
    lag: Int[Tensor, " edges"]
    weight: Float[Tensor, " edges"]
    t: Float[Tensor, " edges"]
    support: Int[Tensor, " edges"]
    d_sae: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, chosen: Tensor | slice) -> "EdgeSet":
        """Some of the edges, by mask, index or slice."""
        tensors = {field.name: getattr(self, field.name)[chosen] for field in fields(self) if field.name != "d_sae"}
        return EdgeSet(**tensors, d_sae=self.d_sae)

    def above(self, weight: float) -> "EdgeSet":
        """Edges with more than this weight."""
        return self[self.weight > weight]

    def strongest_first(self) -> "EdgeSet":
        """Sorted by falling weight."""
        return self[self.weight.sort(descending=True, stable=True).indices]

    def best_lags(self) -> "EdgeSet":
        """Of the edges between a source and a target, only the strongest."""
        ordered = self.strongest_first()
        pair = (ordered.source * self.d_sae + ordered.target).tolist()
        place = {key: number for number, key in reversed(list(enumerate(pair)))}
        return ordered[torch.tensor(sorted(place.values()), dtype=torch.int64)]

    def triples(self) -> list[tuple[int, int, int]]:
        """(source, target, lag) of each edge, in order."""
        columns = (self.source.tolist(), self.target.tolist(), self.lag.tolist())
        return [(source, target, lag) for source, target, lag in zip(*columns, strict=True)]

    def share_of_pairs(self) -> float:
        """Ordered pairs of two features that have an edge, as a share of all such pairs."""
        pairs = {(source, target) for source, target, _ in self.triples()}
        return len(pairs) / max(self.d_sae * (self.d_sae - 1), 1)

    def report(self) -> dict[str, int | float]:
        """How many edges there are: strong (w > 0.1) and candidates (w > 0.05), and the share of pairs declared."""
        strong = self.above(STRONG)
        return {
            "strong_edges": len(strong),
            "candidate_edges": len(self.above(CANDIDATE)),
            "strong_share_of_pairs": strong.share_of_pairs(),
        }


class LaggedCounts:
    """c_l[j, i]: tokens t at which feature i fired while j had fired at t - l, l = 0 .. window, exact.

    Pairs lie in one document of one sequence, both tokens unmasked. With them, for each lag, the number of such pairs
    of tokens and how often each feature fired at their first and second token. (window + 1) F^2 floats: use
    `TemporalCorrelationTracker` above F = 4096.

    Raises:
        UserError: more than 4096 features, or a window below 1.
    """

    def __init__(self, d_sae: int, window: int = 4, device: torch.device | str = "cpu") -> None:
        if d_sae > MAX_FEATURES or window < 1:
            raise UserError(
                f"exact lagged counts are for at most {MAX_FEATURES} features and a window of at least 1; got {d_sae},"
                f" {window}; use TemporalCorrelationTracker for larger dictionaries"
            )
        self.d_sae, self.window = d_sae, window
        self.together: Float[Tensor, "lags F F"] = torch.zeros(window + 1, d_sae, d_sae, device=device)
        self.source: Float[Tensor, "lags F"] = torch.zeros(window + 1, d_sae, dtype=torch.float64, device=device)
        self.target: Float[Tensor, "lags F"] = torch.zeros_like(self.source)
        self.pairs: Float[Tensor, " lags"] = torch.zeros(window + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(
        self,
        codes: Codes,
        mask: Bool[Tensor, "batch pos"] | None = None,
        doc_ids: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Count a batch `[batch, pos, ...]`; all unmasked and one document a sequence by default."""
        slots = as_slots(codes)
        if mask is None:
            mask = torch.ones(slots.values.shape[:2], dtype=torch.bool, device=slots.values.device)
        seen = history(slots, same_document(mask, doc_ids, self.window), mask.nonzero())
        for piece in seen.pieces(max(PAIRS_AT_A_TIME // seen.values.shape[1] ** 2, 1)):
            now = (piece.features, piece.values != 0)
            self._add(0, now, now, len(piece.valid))
            for lag in range(1, self.window + 1):
                valid = piece.valid[:, lag - 1]
                past = (piece.past_features[:, lag - 1], piece.past_values[:, lag - 1] != 0)
                self._add(lag, past, (piece.features, now[1] & valid[:, None]), int(valid.sum()))

    def surprise(self, lag: int) -> Float[Tensor, "F F"]:
        """z of sources (rows) and targets (columns) against e = n_j n_i / N; -inf for a feature with itself."""
        expected = self.source[lag][:, None] * self.target[lag] / self.pairs[lag].clamp(min=1)
        return surprise(self.together[lag].double(), expected).fill_diagonal_(-torch.inf)

    def covariance(self) -> Float[Tensor, "lags F F"]:
        """cov(a_j(t - l), a_i(t)) of the 0 / 1 activities, float32."""
        pairs = self.pairs.clamp(min=1)[:, None]
        source, target = (self.source / pairs).float(), (self.target / pairs).float()
        return self.together / pairs[..., None].float() - source[:, :, None] * target[:, None, :]

    def _add(self, lag: int, past: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor], pairs: int) -> None:
        both = past[1][:, :, None] & now[1][:, None, :]
        place = (past[0][:, :, None] * self.d_sae + now[0][:, None, :])[both]
        self.together[lag].view(-1).index_add_(0, place, torch.ones_like(place, dtype=torch.float32))
        self.source[lag] += torch.bincount(past[0][past[1]], minlength=self.d_sae)
        self.target[lag] += torch.bincount(now[0][now[1]], minlength=self.d_sae)
        self.pairs[lag] += pairs


class Regressors(NamedTuple):
    """Regressors of some targets and their covariances; `source` is -1 where there is none."""

    target: Int[Tensor, " R"]
    source: Int[Tensor, "R r"]
    lag: Int[Tensor, "R r"]
    covariance: Float[Tensor, "R r r"]
    with_target: Float[Tensor, "R r"]
    """Covariance of regressor and target."""
    variance: Float[Tensor, " R"]
    """Of the target."""
    tokens: float
    support: Float[Tensor, "R r"]
    """Tokens on which regressor and target fired."""
    fired: Float[Tensor, "R r"]
    """Tokens on which the regressor fired."""


@torch.no_grad()
def lagged_edges(
    evidence: LaggedCounts | TemporalCorrelationTracker,
    *,
    min_weight: float = CANDIDATE,
    tolerance: float = TOLERANCE,
    best_lag: bool = True,
) -> EdgeSet:
    """Edges that pass every bar, strongest first.

    An edge is kept when its ridge coefficient b exceeds `min_weight`, t > 5, source and target fired together on at
    least 10 tokens and the source on at least 50, and no third feature explains it. Its weight is b. At least 10,000
    tokens are needed, 50,000 are comfortable; w > 0.1 is the set to report, w > 0.05 are candidates.

    Args:
        best_lag: keep one lag a pair; False where real edges have several.

    Raises:
        UserError: a tracker that was never told to `measure()`, or evidence without a token.
    """
    if isinstance(evidence, LaggedCounts):
        if evidence.pairs[0] == 0:
            raise UserError("no token has been counted; update the lagged counts before asking for edges")
        regressions = from_counts(evidence)
    else:
        if not evidence.measuring:
            raise UserError("the tracker holds no counts yet; call measure() once it has seen some data, then go on")
        if evidence.regressors.tokens == 0:
            raise UserError("the tracker has counted no token since measure(); update it with more data")
        regressions = from_tracker(evidence.regressors)
    parts = [_passing(regressors, min_weight, evidence.d_sae) for regressors in regressions]
    edges = prune_indirect(_joined(parts), evidence.window, tolerance)
    return edges.best_lags() if best_lag else edges.strongest_first()


def regress(regressors: Regressors) -> tuple[Float[Tensor, "R r"], Float[Tensor, "R r"]]:
    """Ridge coefficients and t statistics of every target's regression.

    S' = S + 1e-3 diag(S) + 1e-7 I, b = S'^-1 r, s2 = max(var - b.r, 1e-9), t_k = b_k / sqrt(s2 (S'^-1)_kk / N).
    """
    S, r = regressors.covariance, regressors.with_target
    diagonal = S.diagonal(dim1=1, dim2=2)
    inverse = torch.linalg.inv(S + torch.diag_embed(RIDGE * diagonal + FLOOR))
    b = (inverse @ r[..., None]).squeeze(-1)
    unexplained = (regressors.variance - (b * r).sum(1)).clamp(min=1e-9)
    error = unexplained[:, None] * inverse.diagonal(dim1=1, dim2=2).clamp(min=0) / max(regressors.tokens, 1.0)
    return b, b / error.sqrt().clamp(min=1e-30)


def _passing(regressors: Regressors, min_weight: float, d_sae: int) -> EdgeSet:
    b, t = regress(regressors)
    target = regressors.target[:, None].expand_as(b)
    keep = (b > min_weight) & (t > MIN_T) & (regressors.support >= MIN_SUPPORT) & (regressors.fired >= MIN_FIRED)
    keep &= (regressors.source >= 0) & (regressors.source != target)
    columns = (regressors.source, target, regressors.lag, b, t, regressors.support.long())
    source, target, lag, weight, t, support = (column[keep].cpu() for column in columns)
    return EdgeSet(source=source, target=target, lag=lag, weight=weight, t=t, support=support, d_sae=d_sae)


def _joined(parts: list[EdgeSet]) -> EdgeSet:
    names = ("source", "target", "lag", "weight", "t", "support")
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return EdgeSet(**columns, d_sae=parts[0].d_sae)


def from_counts(counts: LaggedCounts, candidates: int = 32) -> Iterator[Regressors]:
    """Screen each target's `candidates` most surprising (source, lag), and read their covariances off the counts."""
    z = torch.stack([counts.surprise(lag) for lag in range(1, counts.window + 1)]).float()  # [w, source, target]
    covariance = counts.covariance()
    for rows in torch.arange(counts.d_sae, device=z.device).split(TARGETS_AT_A_TIME):
        scores = z[:, :, rows].permute(2, 0, 1).flatten(1)
        best = scores.topk(min(candidates, scores.shape[1]), dim=1)
        source, lag = best.indices % counts.d_sae, best.indices // counts.d_sae + 1
        source = source.masked_fill(best.values == -torch.inf, -1)
        own = torch.arange(1, counts.window + 1, device=z.device).expand(len(rows), -1)
        source, lag = torch.cat([source, rows[:, None].expand_as(own)], 1), torch.cat([lag, own], 1)
        yield _read(counts, covariance, rows, source, lag)


def _read(counts: LaggedCounts, covariance: Tensor, rows: Tensor, source: Tensor, lag: Tensor) -> Regressors:
    j, i = source.clamp(min=0), rows[:, None].expand_as(source)
    # cov(a_j(t - l), a_j'(t - l')) depends on l - l' only; the earlier one is the row of the lagged covariance.
    later = lag[:, :, None] - lag[:, None, :]
    first = torch.where(later >= 0, j[:, :, None], j[:, None, :])
    second = torch.where(later >= 0, j[:, None, :], j[:, :, None])
    joint, with_target = covariance[later.abs(), first, second].double(), covariance[lag, j, i].double()
    present = source >= 0
    return Regressors(
        target=rows,
        source=source,
        lag=lag,
        covariance=joint * (present[:, :, None] & present[:, None, :]),
        with_target=with_target * present,
        variance=covariance[0, rows, rows].double(),
        tokens=float(counts.pairs[0]),
        support=counts.together[lag, j, i],
        fired=counts.source[lag, j],
    )


def from_tracker(counts: RegressorCounts) -> Iterator[Regressors]:
    """The tracker's candidates, with what was counted since they were fixed."""
    for rows in torch.arange(len(counts.source), device=counts.source.device).split(TARGETS_AT_A_TIME):
        joint, with_target, variance = counts.covariances(rows)
        yield Regressors(
            target=rows,
            source=counts.source[rows],
            lag=counts.lag[rows],
            covariance=joint,
            with_target=with_target,
            variance=variance,
            tokens=float(counts.tokens),
            support=counts.with_target[rows],
            fired=counts.joint[rows].diagonal(dim1=1, dim2=2),
        )


def prune_indirect(edges: EdgeSet, window: int, tolerance: float = TOLERANCE) -> EdgeSet:
    """Drop j -> i at lag l when its weight is below `tolerance` times what a third feature k carries.

    k lies between (j -> k at l1 < l, k -> i at l - l1) or causes both (k -> j at la, k -> i at la + l <= window); it
    carries the smaller of its two weights. All edges are judged against the edges given. At tolerance 1 real shortcuts
    beside a chain are lost; 0.6 keeps them.
    """
    weight = dict(zip(edges.triples(), edges.weight.tolist(), strict=True))
    after: dict[int, list[tuple[int, int]]] = defaultdict(list)
    before: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for source, target, lag in weight:
        after[source].append((target, lag))
        before[target].append((source, lag))

    def carried(source: int, target: int, lag: int) -> float:
        between = (
            min(weight[source, k, first], weight.get((k, target, lag - first), 0.0))
            for k, first in after[source]
            if first < lag
        )
        common = (
            min(weight[k, source, first], weight.get((k, target, first + lag), 0.0))
            for k, first in before[source]
            if first + lag <= window
        )
        return max([0.0, *between, *common])

    kept = [w >= tolerance * carried(*triple) for triple, w in weight.items()]
    return edges[torch.tensor(kept, dtype=torch.bool, device=edges.source.device)]
