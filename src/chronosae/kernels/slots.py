"""Sums over slots, by token or by feature: the arithmetic of sparse codes without autograd, compiled.

Shapes: N tokens, S slots, F d_sae, D d_in.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.kernels.compiled import bits, evenly, loops_for, parallel, sure_loops
from chronosae.kernels.gpu import gpu_kernels
from chronosae.kernels.memory import recycled


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
    start, place = sure_loops(values).by_feature(indices.numpy(), values.numpy(), d_sae)
    return Slots(start, place, indices.shape[1])


def combine(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "n d"]:
    """`sum_s values[t, s] W[indices[t, s]] + bias` for each token t."""
    out, loops = recycled((len(indices), W.shape[1]), W.dtype), sure_loops(W)
    bias = W.new_zeros(W.shape[1]) if bias is None else bias
    arrays = [t.numpy() for t in (indices, values.contiguous(), W, bias)]
    parallel(evenly(len(indices), 16), lambda a, b: loops.combine(*arrays, a, b, out.numpy()))
    return out


def weighted_rows(slots: Slots, values: Float[Tensor, "n s"], x: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Sums over each feature's slots of `value * x[token]` [F, D], and of `value` [F]."""
    d_sae, loops = len(slots.start) - 1, sure_loops(x)
    rows, sums = recycled((d_sae, x.shape[1]), x.dtype), x.new_empty(d_sae)
    before = slots.start, slots.place, slots.per_token, values.flatten().numpy(), x.numpy()
    parallel(slots.bounds, lambda a, b: loops.weighted_rows(*before, a, b, rows.numpy(), sums.numpy()))
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
    loops, slots = sure_loops(W), by_feature(indices, values, len(W))
    grad_W, grad_values = recycled(tuple(W.shape), W.dtype), values.new_empty(values.shape)
    before = slots.start, slots.place, slots.per_token, values.flatten().numpy(), grad.numpy(), W.numpy()
    flat = grad_values.view(-1).numpy()
    if pull is None:
        parallel(slots.bounds, lambda a, b: loops.decode_gradients(*before, a, b, True, grad_W.numpy(), flat))
    else:
        beside, out = pull.arrays(), (grad_W.numpy(), flat)
        parallel(slots.bounds, lambda a, b: loops.decode_gradients_pulled(*before, *beside, a, b, *out))
    silent = indices.numpy(), values.numpy(), grad.numpy(), W.numpy()
    parallel(evenly(len(indices), 64), lambda a, b: loops.silent_gradients(*silent, a, b, grad_values.numpy()))
    return grad_values, grad_W


def count_active(
    indices: Int[Tensor, "n s"], values: Float[Tensor, "n s"], d_sae: int
) -> tuple[Int[Tensor, " f"], Int[Tensor, " n"]]:
    """On how many tokens each feature is active (its value isn't zero), and how many are active at each token."""
    gpu, loops = gpu_kernels(values), loops_for(values)
    if gpu is not None:
        return gpu.count_active(indices, values, d_sae)
    if loops is None:
        active = values != 0
        return torch.bincount(indices[active], minlength=d_sae), active.sum(-1)
    features, tokens = torch.empty(d_sae, dtype=torch.int64), torch.empty(len(values), dtype=torch.int64)
    loops.count_active(indices.contiguous().numpy(), values.contiguous().numpy(), features.numpy(), tokens.numpy())
    return features, tokens
