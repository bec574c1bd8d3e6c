"""Separation: decoder directions, or the features' activations, should not point the same way."""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from chronosae.autoencoders import Codes
from chronosae.autoencoders.parts.terms import TERMS, Weight
from chronosae.kernels import unit_gram_energy
from chronosae.objectives.active import Active, active_codes, squares_by_feature
from chronosae.objectives.term import StepContext, Term

_ROWS = 8192  # decoder rows in flight at a time: what these terms take beyond the gradient stays small


@TERMS.add
class CosineTerm(Term):
    """`(||D^^T D^||_F^2 - F) / (F (F - 1))`: mean squared cosine between decoder rows (DESIGN 5.A)."""

    per_energy: ClassVar[bool] = True
    uses_gram_energy: ClassVar[bool] = True
    kind: Literal["cosine"] = "cosine"
    weight: Weight = 0.1

    @property
    def one_row_a_feature(self) -> bool:
        return True

    def value(self, step: StepContext) -> Tensor:
        return cosine_separation(step.sae.W_dec, mixed=True, energy=step.forward.gram_energy)


def cosine_separation(
    W_dec: Float[Tensor, "d_sae d_in"], *, mixed: bool = False, energy: Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Mean squared cosine between different decoder rows: `(||D^^T D^||_F^2 - F) / (F (F - 1))`, D^ = unit rows.

    It equals the mean over the F (F - 1) ordered pairs exactly, because `||D^ D^^T||_F = ||D^^T D^||_F`, in O(d_in^2)
    memory: nothing of d_sae x d_sae is made or saved. `welch_floor` is the least it can be. With `mixed`, a CPU that is
    faster at them makes the products in bfloat16: the value is then good to 0.1 %, the gradient to 1 % of its norm.
    `energy` is `||D^^T D^||_F^2`, where it is known.

    Raises:
        ValueError: there are fewer than 2 features.
    """
    d_sae = W_dec.shape[0]
    if d_sae < 2:
        raise ValueError(f"cosine separation compares features; the decoder has {d_sae}")
    if energy is None and mixed:
        energy = unit_gram_energy(W_dec)
    if energy is None:
        gram: Tensor = _Gram.apply(W_dec, True)  # pyright: ignore[reportAssignmentType]
        energy = gram.square().sum()
    return ((energy - d_sae) / (d_sae * (d_sae - 1))).to(W_dec.dtype)


@TERMS.add
class OrthogonalityTerm(Term):
    """`||D D^T - I||_F^2`, without the F x F product (DESIGN 5.A)."""

    kind: Literal["orthogonality"] = "orthogonality"
    weight: Weight = 0.01

    @property
    def one_row_a_feature(self) -> bool:
        return True

    def value(self, step: StepContext) -> Tensor:
        return orthogonality(step.sae.W_dec)


def orthogonality(W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, ""]:
    """`||D D^T - I||_F^2 = ||D^T D||_F^2 - 2 ||D||_F^2 + F`, a sum over all pairs of features, in O(d_in^2) memory."""
    gram: Tensor = _Gram.apply(W_dec, False)  # pyright: ignore[reportAssignmentType]
    return (gram.square().sum() - 2 * gram.trace() + W_dec.shape[0]).to(W_dec.dtype)


def welch_floor(d_sae: int, d_in: int) -> float:
    """The least mean squared cosine of `d_sae` directions in `d_in` dimensions: `(F - d) / (d (F - 1))`, at least 0.

    Welch 1974: reached by tight frames, so no training gets `cosine_separation` below it.
    """
    return max(d_sae - d_in, 0) / (d_in * max(d_sae - 1, 1))


class _Gram(torch.autograd.Function):
    """`D^T D [d_in, d_in]` in float64, with rows scaled to unit length first when `unit`; products in chunks of rows.

    Backward, with S = G' + G'^T: D S, and for unit rows (S d^ - d^ <d^, S d^>) / ||d||.
    """

    @staticmethod
    def forward(ctx: Any, W_dec: Tensor, unit: bool) -> Tensor:
        ctx.save_for_backward(W_dec)
        ctx.unit = unit
        gram = torch.zeros(W_dec.shape[1], W_dec.shape[1], dtype=torch.float64, device=W_dec.device)
        with torch.autocast(W_dec.device.type, enabled=False):  # F is subtracted from it: bfloat16 is too coarse
            for rows in W_dec.split(_ROWS):
                rows = _at_least_single(rows)
                rows = functional.normalize(rows, dim=1) if unit else rows
                gram += rows.T @ rows
        return gram

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (W_dec,) = ctx.saved_tensors
        both = (grad + grad.T).to(_at_least_single(W_dec[:0]).dtype)
        result = torch.empty_like(W_dec)
        for rows, out in zip(W_dec.split(_ROWS), result.split(_ROWS), strict=True):
            rows = _at_least_single(rows)
            if ctx.unit:
                norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
                rows = rows / norms
                pull = rows @ both
                out.copy_((pull - rows * (rows * pull).sum(1, keepdim=True)) / norms)
            else:
                out.copy_(rows @ both)
        return result, None


def _at_least_single(x: Tensor) -> Tensor:
    """`x`, in float32 when it is in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@TERMS.add
class CodeSeparationTerm(Term):
    """Mean squared cosine between the activations of co-active features over a batch (DESIGN 5.A)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["code_separation"] = "code_separation"
    weight: Weight = 0.1

    def value(self, step: StepContext) -> Tensor:
        generator = step.draws.generator(self.kind, 0, step.forward.mask.device)
        return code_separation(step.forward.codes, step.forward.mask, generator=generator)


def code_separation(
    codes: Codes,
    mask: Bool[Tensor, "batch pos"],
    max_pairs: int = 2**18,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean over unordered pairs of features that fired together of `(z_i . z_j)^2 / (|z_i|^2 |z_j|^2)`.

    z_i is feature i's activations over the batch's unmasked tokens; a pair counts once, if some token holds both. 0
    when none does. Time and memory follow the co-activations, `sum_t l0_t (l0_t - 1) / 2`. Where they exceed
    `max_pairs`, only the pairs within a random subset of the features that fired are taken, sized so that their
    co-activations are `max_pairs` in expectation. Every pair is equally likely to be taken and its cosine is over all
    tokens, so the mean over those taken estimates the whole mean, up to the bias of a ratio. `generator` draws the
    subset (the default generator of torch when None); it isn't touched when everything fits.
    """
    active = active_codes(codes, mask)
    unit = active.values * squares_by_feature(active, codes.d_sae).rsqrt().index_select(0, active.features)
    kept = _subset(active, codes.d_sae, mask.numel(), max_pairs, generator)
    tokens, features = active.tokens, active.features
    if kept is not None:
        tokens, features, unit = tokens[kept], features[kept], unit.index_select(0, kept)
    first, second = _pairs_at_tokens(torch.bincount(tokens, minlength=mask.numel()))
    if len(first) == 0:
        return codes.values.sum() * 0.0
    names, pair = (features[first] * codes.d_sae + features[second]).unique(return_inverse=True)
    products = unit.index_select(0, first) * unit.index_select(0, second)
    cosines = products.new_zeros(len(names)).index_add(0, pair, products)
    return cosines.square().mean().to(codes.values.dtype)


def _subset(
    active: Active, d_sae: int, n_tokens: int, max_pairs: int, generator: torch.Generator | None
) -> Tensor | None:
    """Which active codes belong to the random subset of features; None when all co-activations fit."""
    l0 = torch.bincount(active.tokens, minlength=n_tokens)
    total = int((l0 * (l0 - 1)).sum()) // 2
    if total <= max_pairs:
        return None
    fired = torch.bincount(active.features, minlength=d_sae).nonzero().squeeze(1)
    n = max(2, int(len(fired) * (max_pairs / total) ** 0.5))
    device = generator.device if generator is not None else torch.device("cpu")
    drawn = torch.randperm(len(fired), generator=generator, device=device)[:n].to(fired.device)
    chosen = torch.zeros(d_sae, dtype=torch.bool, device=fired.device)
    chosen[fired[drawn]] = True
    return chosen[active.features].nonzero().squeeze(1)


def _pairs_at_tokens(l0: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs (first, second) of rows that share a token; rows lie token after token, `l0[t]` of them at token t."""
    rows = torch.arange(int(l0.sum()), device=l0.device)
    partners = l0.cumsum(0).repeat_interleave(l0) - rows - 1  # rows after this one at its token
    first = rows.repeat_interleave(partners)
    offset = torch.arange(len(first), device=l0.device) - (partners.cumsum(0) - partners).repeat_interleave(partners)
    return first, first + 1 + offset
