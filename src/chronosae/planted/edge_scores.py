"""Scores of lagged edges. An edge is (source, target, lag); a tensor of scores is `[lag - 1, target, source]`.

With `matching`, scores are over latents and the true edges over planted features: true edges are translated to the
latents of their ends. One whose end has no latent can't be found: it counts as missed, and ranks below every candidate.
Self-edges count nowhere.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from chronosae.planted.sample import Edge
from chronosae.planted.scores import Matching

EdgeScores = Mapping[Edge, float] | Float[Tensor, "lags d_sae d_sae"]
"""Score of each candidate edge. A mapping holds the declared edges only; `n_candidates` says how many there were."""


@dataclass(frozen=True)
class EdgeSetScore:
    """A set of declared edges against the planted ones; an edge is right with the right direction and lag."""

    precision: float | None
    """Right / declared; None when nothing was declared."""
    recall: float
    """Right / planted."""
    recoverable_recall: float | None
    """Recall over planted edges with both ends matched at `min_cosine` or better; None when there are none, or no
    matching."""
    n_found: int
    n_true: int


def edge_auroc(
    scores: EdgeScores, true_edges: Collection[Edge], matching: Matching | None = None, n_candidates: int | None = None
) -> float:
    """P(a planted edge scores higher than another candidate) + P(equal) / 2, over all triples.

    Args:
        n_candidates: for a mapping: lags * F * (F - 1), the candidates of which it holds the declared ones; the rest
            share the lowest rank.

    Raises:
        ValueError: no true edge, no other candidate, NaN, or a mapping without `n_candidates`.
    """
    ranked = _rank(scores, true_edges, matching)
    total = ranked.n_candidates if ranked.n_candidates is not None else n_candidates
    if total is None:
        raise ValueError("edge_auroc: a mapping of scores needs n_candidates (lags * F * (F - 1))")
    missed = ranked.n_findable - int(ranked.right.sum())
    negatives, below = total - ranked.n_findable, total - ranked.listed - missed
    if negatives < 1 or below < 0:
        raise ValueError(f"edge_auroc: {total} candidates cannot hold these edges")
    # From the lowest score up: the undeclared share one rank, then each distinct score has its own.
    wins = missed * below / 2
    for right, wrong in zip(ranked.right[::-1], ranked.wrong[::-1], strict=True):
        wins += right * (below + wrong / 2)
        below += wrong
    return float(wins / (ranked.n_true * negatives))


def precision_at(scores: EdgeScores, true_edges: Collection[Edge], n: int, matching: Matching | None = None) -> float:
    """Share of planted edges among the n best candidates; ties at the n-th score share their places evenly.

    Places that a mapping of fewer than n edges leaves empty count as wrong.
    """
    if n < 1:
        raise ValueError(f"precision_at: n must be at least 1, not {n}")
    ranked = _rank(scores, true_edges, matching)
    size = ranked.right + ranked.wrong
    room = np.clip(n - (np.cumsum(size) - size), 0, size)
    return float((room * ranked.right / np.maximum(size, 1)).sum() / n)


def average_precision(scores: EdgeScores, true_edges: Collection[Edge], matching: Matching | None = None) -> float:
    """`sum_k (R_k - R_{k-1}) P_k` over the distinct scores, best first; edges a mapping lacks are never reached."""
    ranked = _rank(scores, true_edges, matching)
    right = np.cumsum(ranked.right)
    precision = right / np.maximum(np.cumsum(ranked.right + ranked.wrong), 1)
    return float((ranked.right / ranked.n_true * precision).sum())


def set_precision_recall(
    found: Iterable[Edge], true_edges: Collection[Edge], matching: Matching | None = None, min_cosine: float = 0.9
) -> EdgeSetScore:
    """Precision and recall of the declared edges `found` (over latents, with `matching`).

    Raises:
        ValueError: no true edge.
    """
    true = _true_edges(true_edges)
    declared = {edge for edge in found if edge[0] != edge[1]}
    right = {edge for edge in true if _translated(edge, matching) in declared}
    recoverable = None
    if matching is not None:
        clear = {edge for edge in true if min(float(matching.cosine[end]) for end in edge[:2]) >= min_cosine}
        recoverable = len(right & clear) / len(clear) if clear else None
    return EdgeSetScore(
        precision=len(right) / len(declared) if declared else None,
        recall=len(right) / len(true),
        recoverable_recall=recoverable,
        n_found=len(declared),
        n_true=len(true),
    )


@dataclass(frozen=True)
class _Ranking:
    """Planted (`right`) and other candidates at each distinct score, best first; all known candidates, or None."""

    right: np.ndarray
    wrong: np.ndarray
    n_true: int
    n_findable: int
    """True edges that are candidates: both ends have a latent, and the lag is covered."""
    n_candidates: int | None

    @property
    def listed(self) -> int:
        return int(self.right.sum() + self.wrong.sum())


def _rank(scores: EdgeScores, true_edges: Collection[Edge], matching: Matching | None) -> _Ranking:
    true = _true_edges(true_edges)
    wanted = [_translated(edge, matching) for edge in true]
    if isinstance(scores, Tensor):
        values, is_true = _tensor_candidates(scores, wanted)
        findable, total = int(is_true.sum()), values.size
    else:
        declared = {edge: score for edge, score in scores.items() if edge[0] != edge[1]}
        values = np.array(list(declared.values()), dtype=np.float64)
        sought = set(wanted)
        is_true = np.array([edge in sought for edge in declared], dtype=bool)
        findable, total = sum(min(edge[:2]) >= 0 for edge in wanted), None
    if np.isnan(values).any():
        raise ValueError("the edge scores hold NaN")
    levels, level = np.unique(-values, return_inverse=True)
    right = np.bincount(level[is_true], minlength=len(levels))
    return _Ranking(right, np.bincount(level, minlength=len(levels)) - right, len(true), findable, total)


def _tensor_candidates(scores: Float[Tensor, "lags d_sae d_sae"], wanted: list[Edge]) -> tuple[np.ndarray, np.ndarray]:
    values = scores.detach().double().cpu().numpy()
    is_true = np.zeros(values.shape, dtype=bool)
    for source, target, lag in wanted:
        if source >= 0 and target >= 0 and lag <= len(values):
            is_true[lag - 1, target, source] = True
    no_self = ~np.eye(values.shape[1], dtype=bool)
    return values[:, no_self].ravel(), is_true[:, no_self].ravel()


def _translated(edge: Edge, matching: Matching | None) -> Edge:
    if matching is None:
        return edge
    source, target, lag = edge
    return int(matching.latent[source]), int(matching.latent[target]), lag


def _true_edges(true_edges: Collection[Edge]) -> set[Edge]:
    true = {edge for edge in true_edges if edge[0] != edge[1]}
    if not true:
        raise ValueError("there is no true edge (between two features) to score against")
    return true
