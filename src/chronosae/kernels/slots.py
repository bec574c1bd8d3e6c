"""Sums over slots, by token or by feature: decoding sparse codes, and the gradients of both weights.

Features that did not fire are not touched. Shapes: N tokens, S slots, F d_sae, D d_in.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from chronosae.kernels import gpu, loops
from chronosae.kernels.dispatch import bits, compiled_kernels, evenly, parallel, recycled, triton_kernels


def sparse_decode(
    indices: Int[Tensor, "*tokens slots"],
    values: Float[Tensor, "*tokens slots"],
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"] | None = None,
) -> Float[Tensor, "*tokens d_in"]:
    """`sum_s values[..., s] * W_dec[indices[..., s]] + b_dec`, gradients to values, W_dec and b_dec.

    Reads S rows a token instead of F; equal to `dense_decode` up to the order of summation.
    """
    slots = indices.shape[-1]
    flat_indices, flat_values = indices.reshape(-1, slots), values.reshape(-1, slots).to(W_dec.dtype)
    weights = (W_dec,) if b_dec is None else (W_dec, b_dec)
    if triton_kernels(flat_values, *weights):
        recon = gpu.slots.sparse_decode(flat_indices, flat_values, W_dec, b_dec)
    elif not compiled_kernels(*weights):
        recon = functional.embedding_bag(flat_indices, W_dec, per_sample_weights=flat_values, mode="sum")
        recon = recon if b_dec is None else recon + b_dec
    else:
        recon = _Decode.apply(flat_indices.contiguous(), flat_values.contiguous(), W_dec.contiguous(), b_dec)
    return recon.reshape(*indices.shape[:-1], W_dec.shape[1])  # pyright: ignore[reportOptionalMemberAccess]


class _Decode(torch.autograd.Function):
    """Compiled; an embedding bag's gradients would gather a row for every slot."""

    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
        ctx.save_for_backward(indices, values, W_dec)
        return combine(indices, values.detach(), W_dec.detach(), None if b_dec is None else b_dec.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        indices, values, W_dec = ctx.saved_tensors
        grads = decode_gradients(indices, values.detach(), W_dec.detach(), grad.contiguous())
        return None, *grads, grad.sum(0) if ctx.needs_input_grad[3] else None


def count_active(
    indices: Int[Tensor, "n s"], values: Float[Tensor, "n s"], d_sae: int
) -> tuple[Int[Tensor, " f"], Int[Tensor, " n"]]:
    """On how many tokens each feature is active (its value isn't zero), and how many are active at each token."""
    if triton_kernels(values):
        return gpu.slots.count_active(indices, values, d_sae)
    if not compiled_kernels(values):
        active = values != 0
        return torch.bincount(indices[active], minlength=d_sae), active.sum(-1)
    features, tokens = torch.empty(d_sae, dtype=torch.int64), torch.empty(len(values), dtype=torch.int64)
    loops.sparse.count_active(
        indices.contiguous().numpy(), values.contiguous().numpy(), features.numpy(), tokens.numpy()
    )
    return features, tokens


class Slots(NamedTuple):
    """Slots in the order of their features: those of feature f are `place[start[f]:start[f + 1]]`."""

    start: np.ndarray
    place: np.ndarray
    per_token: int

    @property
    def bounds(self) -> list[int]:
        """Features cut into parts of about the same work: a row to write and some slots to read each."""
        work = np.arange(len(self.start)) + self.start
        parts = np.searchsorted(work, np.array(evenly(int(work[-1]), 64)[1:-1]))
        return sorted({0, *parts.tolist(), len(self.start) - 1})


def by_feature(indices: Int[Tensor, "n s"], values: Float[Tensor, "n s"], d_sae: int) -> Slots:
    """A counting sort of the slots whose value isn't zero."""
    start, place = loops.sparse.by_feature(indices.numpy(), values.numpy(), d_sae)
    return Slots(start, place, indices.shape[1])


def combine(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "n d"]:
    """`sum_s values[t, s] W[indices[t, s]] + bias` for each token t."""
    out = recycled((len(indices), W.shape[1]), W.dtype)
    bias = W.new_zeros(W.shape[1]) if bias is None else bias
    arrays = [t.numpy() for t in (indices, values.contiguous(), W, bias)]
    parallel(evenly(len(indices), 16), lambda a, b: loops.sparse.combine(*arrays, a, b, out.numpy()))
    return out


def weighted_rows(slots: Slots, values: Float[Tensor, "n s"], x: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Sums over each feature's slots of `value * x[token]` [F, D], and of `value` [F]."""
    d_sae = len(slots.start) - 1
    rows, sums = recycled((d_sae, x.shape[1]), x.dtype), x.new_empty(d_sae)
    before = slots.start, slots.place, slots.per_token, values.flatten().numpy(), x.numpy()
    parallel(slots.bounds, lambda a, b: loops.sparse.weighted_rows(*before, a, b, rows.numpy(), sums.numpy()))
    return rows, sums


class Pull(NamedTuple):
    """What a term of its own pulls each row of a weight to, beside what else does: `scale` times the part of `rows` at
    right angles to the row, over the row's norm.
    """

    norms: Float[Tensor, " f"]
    rows: Float[Tensor, "f d"]
    """bfloat16."""
    scale: float

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """As loops take them."""
        return self.norms.numpy(), bits(self.rows), np.float32(self.scale)


def decode_gradients(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W: Float[Tensor, "f d"],
    grad: Float[Tensor, "n d"],
    pull: Pull | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `combine` to values and W; with `pull`, that of W includes it."""
    slots = by_feature(indices, values, len(W))
    grad_W, grad_values = recycled(tuple(W.shape), W.dtype), values.new_empty(values.shape)
    before = slots.start, slots.place, slots.per_token, values.flatten().numpy(), grad.numpy(), W.numpy()
    flat = grad_values.view(-1).numpy()
    if pull is None:
        parallel(slots.bounds, lambda a, b: loops.sparse.decode_gradients(*before, a, b, True, grad_W.numpy(), flat))
    else:
        beside, out = pull.arrays(), (grad_W.numpy(), flat)
        parallel(slots.bounds, lambda a, b: loops.mixing.decode_gradients_pulled(*before, *beside, a, b, *out))
    silent = indices.numpy(), values.numpy(), grad.numpy(), W.numpy()
    parallel(evenly(len(indices), 64), lambda a, b: loops.sparse.silent_gradients(*silent, a, b, grad_values.numpy()))
    return grad_values, grad_W
