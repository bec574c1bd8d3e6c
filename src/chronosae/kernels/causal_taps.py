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
        n, rest = lags[-1], before.shape[1] - lags[-1]
        s = torch.cat([before[:, rest:].to(s.dtype), s], 1)
        if doc_ids is not None:
            assert before_docs is not None
            doc_ids = torch.cat([before_docs[:, rest:], doc_ids], 1)
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
    """In place over slices: no shifted copy is made. The few tokens whose past is another document are put back."""

    @staticmethod
    def forward(ctx, s: Tensor, weights: Tensor, lags: tuple[int, ...], doc_ids: Tensor | None) -> Tensor:
        ctx.save_for_backward(s, weights, doc_ids)
        ctx.lags = lags
        y = s.clone()
        for weight, lag in zip(weights.to(s.dtype), lags, strict=True):
            if lag < s.shape[1]:
                row, t = _strangers(doc_ids, lag)
                before = y[row, t + lag]
                y[:, lag:].addcmul_(s[:, :-lag], weight)
                y[row, t + lag] = before
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        s, weights, doc_ids = ctx.saved_tensors
        grad_s = grad.clone() if ctx.needs_input_grad[0] else None
        grad_weights = torch.zeros_like(weights) if ctx.needs_input_grad[1] else None
        for index, lag in enumerate(ctx.lags):
            if lag >= s.shape[1]:
                continue
            row, t = _strangers(doc_ids, lag)
            if grad_s is not None:
                before = grad_s[row, t]
                grad_s[:, :-lag].addcmul_(grad[:, lag:], weights[index].to(s.dtype))
                grad_s[row, t] = before
            if grad_weights is not None:
                # A sequence at a time: the products of a whole batch would be as large as its pre-activations.
                for here, there in zip(grad[:, lag:], s[:, :-lag], strict=True):
                    grad_weights[index] += (here * there).sum(0)
                grad_weights[index] -= (grad[row, t + lag] * s[row, t]).sum(0)
        return grad_s, grad_weights, None, None


def _strangers(doc_ids: Tensor | None, lag: int) -> tuple[Tensor, Tensor]:
    """(sequence, t) where t and t + lag belong to different documents."""
    if doc_ids is None:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    row, t = (doc_ids[:, lag:] != doc_ids[:, :-lag]).nonzero(as_tuple=True)
    return row, t
