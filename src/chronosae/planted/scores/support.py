"""Whether latents fire where the planted features do."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.autoencoders import Codes
from chronosae.planted.scores.entries import Entries, entries
from chronosae.planted.scores.matching import Matching


@dataclass(frozen=True)
class SupportScore:
    """Firing (`z != 0`) of matched latents against planted firing.

    Micro: TP, FP and FN summed over the features. Macro: mean over features that fire in the truth, each feature's
    precision counting 0 when its latent never fires.
    """

    precision: float | None
    """TP / (TP + FP); None when no latent fires."""
    recall: float
    """TP / (TP + FN)"""
    f1: float
    """2 TP / (2 TP + FP + FN)"""
    macro_precision: float
    macro_recall: float
    macro_f1: float


def support_f1(
    codes: Codes,
    true_codes: Codes,
    matching: Matching,
    features: Int[Tensor, " chosen"] | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> SupportScore:
    """Support precision, recall and F1 over the planted `features` (all by default) at unmasked tokens.

    A feature without a latent is never found. Latents that stand for none of the features count nowhere.

    Raises:
        ValueError: the features never fire at these tokens; shapes that differ; NaN or Inf in the codes.
    """
    found, true = aligned(codes, true_codes, matching, features, mask)
    n_true = true.sums(torch.ones_like(true.value))
    if not n_true.any():
        raise ValueError("support_f1: none of the planted features fires at an unmasked token")
    n_found = found.sums(torch.ones_like(found.value))
    hits = true.sums((true.partner(found) != 0).double())
    total = float(n_found.sum())
    fires = n_true > 0
    n_true, n_found, hits = n_true[fires], n_found[fires], hits[fires]
    return SupportScore(
        precision=float(hits.sum()) / total if total else None,
        recall=float(hits.sum() / n_true.sum()),
        f1=float(2 * hits.sum() / (n_true.sum() + total)),
        macro_precision=float((hits / n_found.clamp_min(1)).mean()),
        macro_recall=float((hits / n_true).mean()),
        macro_f1=float((2 * hits / (n_true + n_found)).mean()),
    )


def aligned(
    codes: Codes,
    true_codes: Codes,
    matching: Matching,
    features: Int[Tensor, " chosen"] | None,
    mask: Bool[Tensor, "batch pos"] | None,
) -> tuple[Entries, Entries]:
    """Entries of codes and of the truth, both by planted feature, for the features chosen."""
    if codes.values.shape[:-1] != true_codes.values.shape[:-1]:
        raise ValueError(f"codes of {list(codes.values.shape[:-1])} tokens, truth {list(true_codes.values.shape[:-1])}")
    if codes.d_sae != matching.d_sae or true_codes.d_sae != len(matching.latent):
        raise ValueError("the matching is not between these codes and this truth")
    found = entries(codes, mask).renamed(matching.feature_of(), true_codes.d_sae)
    true = entries(true_codes, mask)
    if features is None:
        return found, true
    chosen = torch.zeros(true_codes.d_sae, dtype=torch.bool)
    chosen[features] = True
    return found.where(chosen[found.feature]), true.where(chosen[true.feature])
