"""Scores that do not find edges, kept for comparison: the original interaction average, and surprise alone."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.analysis.counts import MAX_FEATURES, LaggedCounts
from chronosae.analysis.edge_set import EdgeSet
from chronosae.autoencoders import Codes
from chronosae.autoencoders.trackers import same_document
from chronosae.config import UserError


@torch.no_grad()
def naive_interactions(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"] | None = None,
    doc_ids: Int[Tensor, "batch pos"] | None = None,
    *,
    lag: int = 1,
    alpha: float = 0.02,
) -> Float[Tensor, "source target"]:
    """C_ij, average over positions (weight `alpha` for the newest) of mean_batch sigmoid(z_i(t) z_j(t - lag)).

    sigmoid(0) = 0.5: every pair, co-active or not, lies above any threshold below 0.5. This is the rule that fails.

    Raises:
        UserError: more than 4096 features.
    """
    if codes.d_sae > MAX_FEATURES:
        raise UserError(f"the naive rule holds every pair; at most {MAX_FEATURES} features, got {codes.d_sae}")
    z = codes.dense()
    if mask is None:
        mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    valid = same_document(mask, doc_ids, lag)[..., -1]
    average: Tensor | None = None
    for t in range(lag, z.shape[1]):
        rows = valid[:, t]
        if rows.any():
            new = torch.sigmoid(z[rows, t - lag, :, None] * z[rows, t, None, :]).mean(0)
            average = new if average is None else average + alpha * (new - average)
    return torch.zeros(codes.d_sae, codes.d_sae, device=z.device) if average is None else average


def surprise_edges(counts: LaggedCounts, n: int) -> EdgeSet:
    """The `n` triples of highest z = (c - e) / sqrt(e + 1), which is both their weight and t here."""
    z = torch.stack([counts.surprise(lag) for lag in range(1, counts.window + 1)])
    best = z.flatten().topk(n)
    lag, pair = best.indices // counts.d_sae**2 + 1, best.indices % counts.d_sae**2
    source, target = pair // counts.d_sae, pair % counts.d_sae
    return EdgeSet(
        source=source,
        target=target,
        lag=lag,
        weight=best.values,
        t=best.values,
        support=counts.together[lag, source, target].long(),
        d_sae=counts.d_sae,
    )
