"""Prediction: codes of a token should also tell the next one."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import Codes, Pass, SparseCodes
from chronosae.objectives.reconstruction import masked_mean


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
