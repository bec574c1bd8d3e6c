"""What a lagged regression needs, target by target, from exact counts or from a tracker's moments.

Shapes: R targets at a time, r regressors each: m candidates (source, lag), then the target's own lags.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.analysis.counts import LaggedCounts
from chronosae.autoencoders.trackers import CandidateMoments

TARGETS_AT_A_TIME = 256


class Regressors(NamedTuple):
    """Regressors of some targets and their second moments; `source` is -1 where there is none."""

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


def from_moments(moments: CandidateMoments) -> Iterator[Regressors]:
    """The tracker's candidates, with the moments counted since they were fixed."""
    for rows in torch.arange(len(moments.source), device=moments.source.device).split(TARGETS_AT_A_TIME):
        joint, with_target, variance = moments.covariances(rows)
        yield Regressors(
            target=rows,
            source=moments.source[rows],
            lag=moments.lag[rows],
            covariance=joint,
            with_target=with_target,
            variance=variance,
            tokens=float(moments.tokens),
            support=moments.with_target[rows],
            fired=moments.joint[rows].diagonal(dim1=1, dim2=2),
        )
