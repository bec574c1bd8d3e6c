"""AuxK: dead features learn from what the living leave unexplained. And what a crosscoder learns beside x_t."""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Crosscoder, Layout, Pass, SparseCodes
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.terms import TERMS, Weight
from chronosae.kernels import error_of_largest, some_rows, sparse_decode
from chronosae.objectives.term import StepContext, Term, masked_mean, mean_squared_error

# Where at least one dead feature in so many takes part at a token, a dense product is faster than sums over slots.
DENSE_RATIO = 4


@TERMS.add
class AuxKTerm(Term):
    """`weight * ||e - e_hat||^2`: the k_aux strongest dead features reconstruct the error e (arXiv 2406.04093, A.2)."""

    wants_dead: ClassVar[bool] = True
    kind: Literal["auxk"] = "auxk"
    weight: Weight = 1 / 32
    k_aux: Positive
    """Dead features that take part at each token."""

    def value(self, step: StepContext) -> Tensor | None:
        if not step.dead.any():
            return None
        if isinstance(step.sae, Crosscoder):
            return window_auxk_error(step.sae, step.forward, step.dead, self.k_aux)
        return auxk_error(_where_open(step), step.sae.W_dec, step.dead, self.k_aux)


def _where_open(step: StepContext) -> Pass:
    """The pass without the pre-activations from which, by masked gradients, nothing may be learnt."""
    position_mask, layout = step.sae.position_mask, step.forward.layout
    if position_mask is None or layout is None or not position_mask.cfg.masked_gradients:
        return step.forward
    closed = position_mask.closed(None, layout.positions)
    return step.forward._replace(source=torch.where(closed, 0, step.forward.pre))


def auxk_error(
    step: Pass, W_dec: Float[Tensor, "d_sae d_in"], dead: Bool[Tensor, " d_sae"], k_aux: int
) -> Float[Tensor, ""] | None:
    """`mean_t ||e_t - e_hat_t||^2 * min(n_dead / k_aux, 1)`; None when no feature is dead.

    e is the reconstruction error (detached) and e_hat the sum of the `k_aux` strongest dead features at each token
    (Gao et al. 2024, arXiv 2406.04093, section A.2). The factor keeps a handful of dead features from being asked to
    explain the whole error. Gradients reach both encoder and decoder of the dead features.
    """
    candidates = dead.nonzero().squeeze(1)
    if len(candidates) == 0:
        return None
    pre = step.pre_of(candidates).flatten(0, -2)
    if len(candidates) <= DENSE_RATIO * k_aux:
        target, recon, mask = step.target.flatten(0, -2), step.recon.flatten(0, -2), step.mask.flatten()
        energy = error_of_largest(target, pre, k_aux, some_rows(W_dec, candidates), mask, recon)
        error = energy / mask.sum().clamp_min(1)
    else:
        values, local = torch.relu(pre).topk(k_aux, dim=-1, sorted=False)
        estimate = sparse_decode(candidates[local], values, W_dec)
        error = mean_squared_error((step.target - step.recon).detach(), estimate.view(step.target.shape), step.mask)
    return error * min(len(candidates) / k_aux, 1.0)


@TERMS.add
class WindowTerm(Term):
    """Mean squared error of the earlier slices that a crosscoder's codes also decode to."""

    kind: Literal["window"] = "window"

    def check_spec(self, spec: Any) -> None:
        if spec.body.kind != "crosscoder":
            raise ValueError("the window term needs codes that decode to a window: the presets txc and stacked")

    def value(self, step: StepContext) -> Tensor:
        return window_error(step.sae, step.forward)


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
