"""What a crosscoder is trained on beside x_t: the earlier tokens of its window."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Pass, SparseCodes
from chronosae.autoencoders.crosscoder import Crosscoder
from chronosae.autoencoders.layout import Layout
from chronosae.objectives.reconstruction import masked_mean


def window_error(sae: Autoencoder, step: Pass) -> Float[Tensor, ""]:
    """`mean_{s=1}^{T-1} mean_t ||x_{t-s} - x_hat_{t-s|t}||^2`, over pairs of unmasked tokens in one document.

    With weight (T - 1) / T, beside the reconstruction error (slice 0) with weight 1 / T, the loss is the mean over the
    T slices of each slice's mean error.

    Raises:
        ValueError: the autoencoder has no window.
    """
    sae, layout = _windowed(sae, step)
    left = _unexplained(step, layout, [x + sae.b_dec for x in sae.combine_slices(step.codes, first=1)], first=1)
    return torch.stack([masked_mean(x.pow(2).sum(-1), pairs) for x, pairs in left]).mean()


def window_auxk_error(
    sae: Autoencoder, step: Pass, dead: Bool[Tensor, " d_sae"], k_aux: int
) -> Float[Tensor, ""] | None:
    """AuxK over the window: the strongest dead features explain what all T slices leave over; None if none is dead.

    The formula is that of `auxk_error`, its error the mean over slices; every slice of the dead features' decoder and
    encoder gets a gradient.
    """
    sae, layout = _windowed(sae, step)
    candidates = dead.nonzero().squeeze(1)
    if len(candidates) == 0:
        return None
    acts = torch.relu(step.pre_of(candidates))
    values, local = acts.topk(min(k_aux, len(candidates)), dim=-1, sorted=False)
    revived = SparseCodes(values, None, candidates[local], sae.d_sae)
    with torch.no_grad():
        left = _unexplained(step, layout, [x + sae.b_dec for x in sae.combine_slices(step.codes)])
    errors = [
        masked_mean((x - estimate[:, s:]).pow(2).sum(-1), pairs)
        for s, ((x, pairs), estimate) in enumerate(zip(left, sae.combine_slices(revived), strict=True))
    ]
    return torch.stack(errors).mean() * min(len(candidates) / k_aux, 1.0)


def _windowed(sae: Autoencoder, step: Pass) -> tuple[Crosscoder, Layout]:
    if not isinstance(sae, Crosscoder) or step.layout is None:
        raise ValueError(f"the window term needs the crosscoder body; a {sae.cfg.preset} autoencoder has no window")
    return sae, step.layout


def _unexplained(
    step: Pass, layout: Layout, slices: list[Tensor], first: int = 0
) -> list[tuple[Float[Tensor, "batch later d_in"], Bool[Tensor, "batch later"]]]:
    """For each slice s and token t >= s: `x_{t-s}` minus its estimate, and whether both are real, in one document."""
    n, docs, out = step.mask.shape[1], layout.doc_ids, []
    for s, estimate in enumerate(slices, first):
        s = min(s, n)
        pairs = step.mask[:, s:] & step.mask[:, : n - s]
        if docs is not None:
            pairs = pairs & (docs[:, s:] == docs[:, : n - s])
        out.append((step.target[:, : n - s] - estimate[:, s:], pairs))
    return out
