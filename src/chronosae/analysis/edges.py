"""Lagged edges by gated ridge regression: which features at t - l predict that a feature fires at t.

Neither co-activation, lift, z nor the original interaction score tells a cause from frequency, persistence or topic.
Regression on a target's candidates and its own past removes persistence; the gate on effect size removes topics, whose
partial coefficients are small; pruning removes what a path through a third feature explains.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.analysis.counts import LaggedCounts
from chronosae.analysis.edge_set import CANDIDATE, EdgeSet
from chronosae.analysis.prune import TOLERANCE, prune_indirect
from chronosae.analysis.regressors import Regressors, from_counts, from_moments
from chronosae.autoencoders.trackers import CandidateMoments, TemporalCorrelationTracker
from chronosae.config import UserError

RIDGE, FLOOR = 1e-3, 1e-7
MIN_T, MIN_SUPPORT, MIN_FIRED = 5.0, 10, 50


@torch.no_grad()
def lagged_edges(
    evidence: LaggedCounts | TemporalCorrelationTracker,
    *,
    min_weight: float = CANDIDATE,
    tolerance: float = TOLERANCE,
    best_lag: bool = True,
) -> EdgeSet:
    """Edges that pass every gate, strongest first.

    An edge is kept when its ridge coefficient b exceeds `min_weight`, t > 5, source and target fired together on at
    least 10 tokens and the source on at least 50, and no third feature explains it. Its weight is b. At least 10,000
    tokens are needed, 50,000 are comfortable; w > 0.1 is the set to report, w > 0.05 are candidates.

    Args:
        best_lag: keep one lag a pair; False where real edges have several.

    Raises:
        UserError: a tracker that was never told to `measure()`, or evidence without a token.
    """
    window = evidence.window
    if isinstance(evidence, TemporalCorrelationTracker):
        _check_measured(evidence.moments, bool(evidence.measuring))
        regressions = from_moments(evidence.moments)
    else:
        if evidence.pairs[0] == 0:
            raise UserError("no token has been counted; update the lagged counts before asking for edges")
        regressions = from_counts(evidence)
    parts = [_gated(regressors, min_weight, evidence.d_sae) for regressors in regressions]
    edges = prune_indirect(_joined(parts), window, tolerance)
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


def _gated(regressors: Regressors, min_weight: float, d_sae: int) -> EdgeSet:
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


def _check_measured(moments: CandidateMoments, measuring: bool) -> None:
    if not measuring:
        raise UserError("the tracker holds no moments yet; call measure() once it has seen some data, then go on")
    if moments.tokens == 0:
        raise UserError("the tracker has counted no token since measure(); update it with more data")
