"""Cross-position penalty: a feature's mean activation should not depend on the position in the context."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.objectives.active import active_codes, count_fired, squares_by_feature


def cross_position_error(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    positions: Int[Tensor, "batch pos"],
    eps: float = 1e-6,
    min_count: int = 8,
) -> Float[Tensor, ""]:
    """`mean_f Var_p(mu_fp) / (E_t[z_tf^2] + eps)`, f over the features that fired, noise of sampling taken out.

    mu_fp is the mean of z_f over the n_p unmasked tokens at position p; p runs over the P positions with
    `n_p >= min_count`; E is the mean over all unmasked tokens of the batch. Var_p is the population variance less what
    sampling alone puts there, `(1 - 1/P) mean_p s_fp^2 / n_p`, s_fp^2 the sample variance at p: where a feature's
    distribution is the same at all positions the numerator is 0 on average (so it can be slightly negative). 0 when
    fewer than 2 positions count or nothing fired. `eps` is in squared units of the codes.

    Time and memory follow the active codes: sums are kept for pairs (feature, position) that occur.

    Raises:
        ValueError: `min_count` is less than 2, where a position has no sample variance.
    """
    if min_count < 2:
        raise ValueError(f"min_count is {min_count}; the noise of a position's mean needs at least 2 tokens there")
    active = active_codes(codes, mask)
    seen, at = positions[mask].unique(return_inverse=True)
    counts = torch.bincount(at, minlength=len(seen))
    eligible = counts >= min_count
    n_positions = int(eligible.sum())
    if n_positions < 2 or len(active.values) == 0:
        return codes.values.sum() * 0.0
    scale = (squares_by_feature(active, codes.d_sae) / len(at) + eps).rsqrt()

    place = torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
    place[mask.flatten()] = at
    place = place[active.tokens]
    kept = eligible[place].nonzero().squeeze(1)
    place, features = place[kept], active.features[kept]
    values = active.values.index_select(0, kept) * scale.index_select(0, features)
    n = counts[place].double()

    # With S1 and S2 a pair's sums of z and z^2: mu = S1 / n and s^2 / n = (S2 - S1^2 / n) / (n (n - 1)).
    pairs, pair = (features * len(seen) + place).unique(return_inverse=True)
    sums_squared = values.new_zeros(len(pairs)).index_add(0, pair, values).square()
    n_pair = counts[pairs % len(seen)].double()
    means = values.new_zeros(codes.d_sae).index_add(0, features, values / n) / n_positions
    variance = (sums_squared / n_pair.square()).sum() / n_positions - means.square().sum()
    noise = (values.square() / (n * (n - 1))).sum() - (sums_squared / (n_pair.square() * (n_pair - 1))).sum()
    error = variance - noise * (1 - 1 / n_positions) / n_positions
    return (error / count_fired(active, codes.d_sae)).to(codes.values.dtype)
