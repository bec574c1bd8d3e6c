"""Taps along the context: weighted sums over a few earlier (or later) tokens, no shifted copy of the tokens made.

Every feature with its own taps, sparse in time (`causal_taps`); several dilations of every channel in one pass
(`depthwise_taps`); the same with a projection, in bfloat16, nothing between them ever in float32 (`mix_taps`).

Shapes: N tokens, D channels, R dilations, J taps, L different lags, E rank of the projection.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import loops
from chronosae.kernels.dispatch import bits, compiled_kernels, evenly, parallel, recycled
from chronosae.kernels.mixed import mixed_pays

# Entries up to which a factor is turned round in memory: a product with it is faster then.
SMALL = 2**18


def causal_taps(
    s: Float[Tensor, "batch pos width"],
    weights: Float[Tensor, "lags width"],
    lags: tuple[int, ...],
    doc_ids: Int[Tensor, "batch pos"] | None = None,
    before: Float[Tensor, "batch history width"] | None = None,
    before_docs: Int[Tensor, "batch history"] | None = None,
) -> Float[Tensor, "batch pos width"]:
    """`y_t = s_t + sum_l w_l * s_{t-l}`, every feature with its own weights; nothing crosses between documents.

    Args:
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


def depthwise_taps(
    x: Float[Tensor, "n d"],
    weights: Float[Tensor, "r j d"],
    which: Int[Tensor, "r j"],
    lags: tuple[int, ...],
    sources: Int[Tensor, "l n"],
) -> Float[Tensor, "n r d"]:
    """`y[t, r, c] = sum_j weights[r, j, c] x[t - lags[which[r, j]], c]`, gradients to x and weights.

    `sources[l, t]` is the token `lags[l]` before t (after it for a negative lag); -1 where there is none: it counts as
    zero.
    """
    if not compiled_kernels(x, weights):
        return depthwise_taps_dense(x, weights, which, sources)
    return _Depthwise.apply(x.contiguous(), weights.contiguous(), which, lags, sources)  # pyright: ignore[reportReturnType]


def depthwise_taps_dense(
    x: Float[Tensor, "n d"], weights: Float[Tensor, "r j d"], which: Int[Tensor, "r j"], sources: Int[Tensor, "l n"]
) -> Float[Tensor, "n r d"]:
    """The reference of `depthwise_taps`: one moved copy a lag."""
    moved = torch.stack([torch.where((s >= 0).unsqueeze(1), x[s.clamp_min(0)], 0) for s in sources])
    return torch.einsum("rjnd,rjd->nrd", moved[which], weights)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, which: Tensor, lags: tuple[int, ...], sources: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights, which, sources)
        ctx.lags = lags
        out = recycled((len(x), len(which), x.shape[1]), x.dtype)
        arrays = [t.detach().numpy() for t in (x, weights, which, sources)]
        parallel(evenly(len(x), 16), lambda a, b: loops.mixing.depthwise(*arrays, a, b, out.numpy()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weights, which, sources = ctx.saved_tensors
        grad, grad_x, grad_weights = grad.contiguous(), None, None
        g, w, index, places = (t.detach().numpy() for t in (grad, weights, which, sources))
        if ctx.needs_input_grad[0]:
            grad_x, lags = recycled(tuple(x.shape), x.dtype), torch.tensor(ctx.lags, dtype=torch.int64).numpy()
            before, out = (g, w, index, places, lags), grad_x.numpy()
            parallel(evenly(len(x), 16), lambda a, b: loops.mixing.depthwise_input_gradient(*before, a, b, out))
        if ctx.needs_input_grad[1]:
            grad_weights = torch.empty_like(weights)
            read, slopes = (g, x.detach().numpy(), index, places), grad_weights.numpy()
            parallel(evenly(x.shape[1], 64), lambda a, b: loops.mixing.depthwise_weight_gradient(*read, a, b, slopes))
        return grad_x, grad_weights, None, None, None


class Taps(NamedTuple):
    """Which tokens the taps read: see `depthwise_taps`."""

    which: Int[Tensor, "r j"]
    lags: tuple[int, ...]
    sources: Int[Tensor, "l n"]


def mix_taps(
    x: Float[Tensor, "n d"],
    weights: Float[Tensor, "r j d"],
    project_in: Float[Tensor, "rd e"] | None,
    project_out: Float[Tensor, "e d"],
    taps: Taps,
) -> Float[Tensor, "n d"] | None:
    """`x + depthwise_taps(x) project_in project_out`, the products in bfloat16; gradients to x and all weights.

    Without `project_in`, `project_out` takes what the taps give. None outside `mixed_products`, or where they don't
    pay.
    """
    factors = (project_out,) if project_in is None else (project_in, project_out)
    if not mixed_pays(x, weights, *factors):
        return None
    return _Mix.apply(x.contiguous(), weights.contiguous(), taps, *factors)  # pyright: ignore[reportReturnType]


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, taps: Taps, *factors: Tensor) -> Tensor:
        ctx.taps = taps
        factors = tuple(f.detach().bfloat16() for f in factors)
        u = recycled((len(x), len(taps.which) * x.shape[1]), torch.bfloat16)
        read, out = _arrays(x, weights, taps.which, taps.sources), bits(u)
        parallel(evenly(len(x), 16), lambda a, b: loops.mixing.taps_rounded(*read, a, b, out))
        steps = [u]
        for factor in factors:
            steps.append(_product(steps[-1], factor))
        ctx.save_for_backward(x, weights, *factors, *steps[:-1])
        mixed = recycled(tuple(x.shape), x.dtype)
        added = *_arrays(x), bits(steps[-1])
        parallel(evenly(len(x), 64), lambda a, b: loops.mixing.add_rounded(*added, a, b, mixed.numpy()))
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weights, *rest = ctx.saved_tensors
        factors, steps = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        grad, taps, slopes = grad.contiguous(), ctx.taps, []
        slope = recycled(tuple(grad.shape), torch.bfloat16).copy_(grad)
        for factor, step in zip(reversed(factors), reversed(steps), strict=True):
            slopes.insert(0, _weight_gradient(step, slope))
            slope = _product(slope, factor.T.contiguous() if factor.numel() < SMALL else factor.T)
        grad_x, grad_weights = None, torch.empty_like(weights)
        which, sources = _arrays(taps.which, taps.sources)
        if ctx.needs_input_grad[0]:
            grad_x = recycled(tuple(x.shape), x.dtype)
            lags = torch.tensor(taps.lags, dtype=torch.int64).numpy()
            before, out = (grad.numpy(), bits(slope), *_arrays(weights), which, sources, lags), grad_x.numpy()
            parallel(evenly(len(x), 16), lambda a, b: loops.mixing.taps_input_gradient(*before, a, b, out))
        read = bits(slope), *_arrays(x), which, sources
        parallel(
            evenly(x.shape[1], 64), lambda a, b: loops.mixing.taps_weight_gradient(*read, a, b, grad_weights.numpy())
        )
        return grad_x, grad_weights, None, *slopes


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out=recycled((a.shape[0], b.shape[1]), torch.bfloat16))


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """`x^T grad` in float32. A product is fastest with what it sums over side by side in its first factor."""
    out = recycled((x.shape[1], grad.shape[1]), torch.float32)
    if grad.shape[1] > x.shape[1]:
        return out.copy_(_product(x.T, grad))
    turned = recycled((grad.shape[1], len(grad)), torch.bfloat16)
    parallel(evenly(len(grad), 64), lambda a, b: loops.mixing.turned(bits(grad), a, b, bits(turned)))
    found = _product(turned, x)
    parallel(evenly(len(out), 64), lambda a, b: loops.mixing.turned_wide(bits(found), a, b, out.numpy()))
    return out


def _arrays(*tensors: Tensor) -> list[Any]:
    return [t.detach().numpy() for t in tensors]
