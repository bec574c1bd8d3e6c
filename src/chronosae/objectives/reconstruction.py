"""Squared errors: of the reconstruction, of what nested dictionaries reconstruct alone, of the next token's vector."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders import Codes, Layout, Pass, SparseCodes
from chronosae.autoencoders.parts.terms import TERMS, Weight
from chronosae.objectives.term import StepContext, Term, masked_mean, mean_squared_error


@TERMS.add
class NestedTerm(Term):
    """`weight * sum_i w_i ||x - z[:m_i] W_dec[:m_i] - b_dec||^2`: the first m_i features must do alone.

    The Matryoshka objective (Bussmann et al. 2025, arXiv 2503.17547); the whole dictionary's own error is the
    reconstruction error, weighted by the autoencoder's `reconstruction_weight`.
    """

    kind: Literal["nested"] = "nested"
    prefixes: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1)
    """Shares of the dictionary, ascending; the whole is not named."""
    weights: list[Annotated[float, Field(ge=0)]] | None = None
    """One a prefix; 1 each when absent."""

    @property
    def one_row_a_feature(self) -> bool:
        return True

    def model_post_init(self, context: object) -> None:
        if sorted(set(self.prefixes)) != self.prefixes:
            raise ValueError(f"prefixes must ascend, got {self.prefixes}")
        if self.weights is not None and len(self.weights) != len(self.prefixes):
            raise ValueError(f"{len(self.prefixes)} prefixes need as many weights, got {len(self.weights)}")

    def value(self, step: StepContext) -> Tensor:
        weights = self.weights or [1.0] * len(self.prefixes)
        return nested_error(step.forward, step.sae.training_recon, step.sae.d_sae, self.prefixes, weights)


def nested_error(
    step: Pass,
    reconstruct: Callable[[Codes, Layout | None], Tensor],
    d_sae: int,
    prefixes: Sequence[float],
    weights: Sequence[float],
) -> Float[Tensor, ""]:
    """`sum_i w_i mean_t ||x_t - z_t[:m_i] W_dec[:m_i] - b_dec||^2`, m_i the prefix's share of d_sae.

    `reconstruct` is the autoencoder's own, `z W_dec + b_dec` in normalised units.
    """
    total = step.target.new_zeros(())
    for share, weight in zip(prefixes, weights, strict=True):
        recon = reconstruct(first_features(step.codes, prefix_size(share, d_sae)), step.layout)
        total = total + weight * mean_squared_error(step.target, recon, step.mask)
    return total


def prefix_size(share: float, d_sae: int) -> int:
    """Number of features in a prefix, at least one."""
    return max(1, round(share * d_sae))


def first_features(codes: Codes, n: int) -> Codes:
    """The same codes with all but the first n features silent."""
    if isinstance(codes, SparseCodes):
        return replace(codes, values=torch.where(codes.indices < n, codes.values, 0))
    keep = torch.arange(codes.d_sae, device=codes.values.device) < n
    return replace(codes, values=codes.values * keep)


@TERMS.add
class NextTokenTerm(Term):
    """`weight * mean_t ||x_{t+1} - z_t W_next - b_next||^2` within a document: codes should also foretell."""

    kind: Literal["next_token"] = "next_token"
    weight: Weight = 0.1

    def make_head(self, d_in: int, d_sae: int) -> nn.Module | None:
        return NextTokenHead(d_in, d_sae)

    def value(self, step: StepContext) -> Tensor:
        head = step.head(self.kind)
        assert isinstance(head, NextTokenHead)
        return next_token_error(step.forward, head.W_next, head.b_next)


class NextTokenHead(nn.Module):
    """A second decoder, from codes to the next token's vector; it starts at zero."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.W_next = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_next = nn.Parameter(torch.zeros(d_in))


def next_token_error(
    step: Pass, W_next: Float[Tensor, "d_sae d_in"], b_next: Float[Tensor, " d_in"]
) -> Float[Tensor, ""]:
    """`mean_t ||x_{t+1} - z_t W_next - b_next||^2` over pairs of unmasked neighbours in one document.

    Raises:
        ValueError: flat input, where no token has a next one.
    """
    if step.layout is None:
        raise ValueError("the next_token term needs activations [batch, pos, d_in]; flat vectors have no next one")
    guess = _all_but_last(step.codes).combine(W_next) + b_next
    pairs = step.mask[:, 1:] & step.mask[:, :-1]
    if step.layout.doc_ids is not None:
        pairs = pairs & (step.layout.doc_ids[:, 1:] == step.layout.doc_ids[:, :-1])
    return masked_mean((step.target[:, 1:] - guess).pow(2).sum(-1), pairs)


def _all_but_last(codes: Codes) -> Codes:
    cut = {"values": codes.values[:, :-1], "scale": None}
    return (
        replace(codes, indices=codes.indices[:, :-1], **cut)
        if isinstance(codes, SparseCodes)
        else replace(codes, **cut)
    )
