"""`y_t = s_t + sum_l w_l * s_{t-l}`, every feature with its own weights: a sparse-in-time depthwise convolution."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def causal_taps(
    s: Float[Tensor, "batch pos width"],
    weights: Float[Tensor, "lags width"],
    lags: tuple[int, ...],
    doc_ids: Int[Tensor, "batch pos"] | None = None,
    before: Float[Tensor, "batch history width"] | None = None,
    before_docs: Int[Tensor, "batch history"] | None = None,
) -> Float[Tensor, "batch pos width"]:
    """The sum above. Nothing crosses from one document into another.

    Arguments:
        weights: one row a lag.
        lags: positive, ascending.
        doc_ids: documents; None when every sequence is one.
        before: what preceded the first token (at least max(lags) rows), zeros when None; it takes no gradient.
        before_docs: its documents.
    """
    if before is not None:
        n = before.shape[1]
        s = torch.cat([before.to(s.dtype), s], 1)
        if doc_ids is not None:
            assert before_docs is not None
            doc_ids = torch.cat([before_docs, doc_ids], 1)
        return _CausalTaps.apply(s, weights, lags, doc_ids)[:, n:]
    return _CausalTaps.apply(s, weights, lags, doc_ids)


def causal_taps_dense(
    s: Float[Tensor, "batch pos width"],
    weights: Float[Tensor, "lags width"],
    lags: tuple[int, ...],
    doc_ids: Int[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos width"]:
    """The same by the book: one shifted copy a lag. The reference in tests."""
    y = s
    for weight, lag in zip(weights, lags, strict=True):
        if lag < s.shape[1]:
            same = _same(doc_ids, lag, s.dtype)
            term = s[:, :-lag] * weight if same is None else s[:, :-lag] * weight * same
            y = y + torch.nn.functional.pad(term, (0, 0, lag, 0))
    return y


def _same(doc_ids: Tensor | None, lag: int, dtype: torch.dtype) -> Tensor | None:
    return None if doc_ids is None else (doc_ids[:, lag:] == doc_ids[:, :-lag]).unsqueeze(-1).to(dtype)


class _CausalTaps(torch.autograd.Function):
    """In place over slices: no shifted copy is ever made, forward or backward."""

    @staticmethod
    def forward(ctx, s: Tensor, weights: Tensor, lags: tuple[int, ...], doc_ids: Tensor | None) -> Tensor:
        ctx.save_for_backward(s, weights, doc_ids)
        ctx.lags = lags
        y = s.clone()
        for weight, lag in zip(weights.to(s.dtype), lags, strict=True):
            if lag < s.shape[1]:
                same = _same(doc_ids, lag, s.dtype)
                y[:, lag:].addcmul_(s[:, :-lag] if same is None else s[:, :-lag] * same, weight)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        s, weights, doc_ids = ctx.saved_tensors
        grad_s = grad.clone() if ctx.needs_input_grad[0] else None
        grad_weights = torch.zeros_like(weights) if ctx.needs_input_grad[1] else None
        for index, lag in enumerate(ctx.lags):
            if lag >= s.shape[1]:
                continue
            same = _same(doc_ids, lag, s.dtype)
            here = grad[:, lag:] if same is None else grad[:, lag:] * same
            if grad_s is not None:
                grad_s[:, :-lag].addcmul_(here, weights[index].to(s.dtype))
            if grad_weights is not None:
                grad_weights[index] = torch.einsum("bpw,bpw->w", here, s[:, :-lag])
        return grad_s, grad_weights, None, None
