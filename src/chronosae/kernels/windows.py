"""Sums over sliding windows without visiting a window: each activation is an interval of the windows that hold it.

Shapes: E activations or intervals, N tokens. Time is an integer axis on which the features are laid end to end.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from chronosae.kernels import loops
from chronosae.kernels.dispatch import compiled_kernels, parallel
from chronosae.kernels.slots import by_feature


class Windows(NamedTuple):
    """Sliding windows over tokens that are numbered by their rank."""

    length: int
    enter: Int[Tensor, " n"]
    leave: Int[Tensor, " n"]
    """The windows `enter <= w < leave` hold a token; both ascend."""
    later: Bool[Tensor, " n"]
    """The token of the rank before is of the same document."""


def window_variance(
    values: Float[Tensor, " e"],
    features: Int[Tensor, " e"],
    ranks: Int[Tensor, " e"],
    windows: Windows,
    d_sae: int,
    eps: float,
    by_persistence: bool,
) -> Float[Tensor, ""] | None:
    """`sum_f [ sum_W Var_{t in W}(z_tf) / (E_t[z_tf^2] + eps) ]`, each summand times the feature's persistence or not.

    `values` are those of `features` at the tokens of `ranks`, these ascending for each feature; zeros count as nothing.
    O(e): each activation enters and leaves a running sum once. Gradient to `values`, once; persistence takes none.
    None where there is no compiler.
    """
    if not compiled_kernels(values):
        return None
    return _WindowVariance.apply(values, features, ranks, windows, d_sae, eps, by_persistence)  # pyright: ignore[reportReturnType]


class _WindowVariance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        features: Tensor,
        ranks: Tensor,
        windows: Windows,
        d_sae: int,
        eps: float,
        by_persistence: bool,
    ) -> Tensor:
        z = values.detach().contiguous()
        slots = by_feature(features.view(-1, 1), z.view(-1, 1), d_sae)
        errors, grad = np.empty(d_sae), torch.zeros_like(z)
        spans = windows.enter.numpy(), windows.leave.numpy()
        before = slots.start, slots.place, z.numpy(), ranks.numpy(), spans, windows.later.numpy()
        options = by_persistence, windows.length, eps
        parallel(
            slots.bounds, lambda a, b: loops.windows.window_variance(*before, *options, a, b, errors, grad.numpy())
        )
        ctx.save_for_backward(grad)
        return torch.tensor(errors.sum(), dtype=values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return slopes * grad, None, None, None, None, None, None


def interval_energy(
    values: Float[Tensor, " e"], enter: Int[Tensor, " e"], leave: Int[Tensor, " e"]
) -> Float[Tensor, ""]:
    """`sum over times of (sum of the values present)^2`; interval i is present at times `enter[i] <= t < leave[i]`.

    Each value enters and leaves a running sum once, and the sum's square is weighed by how long it lasts: O(e) after a
    merge of two sorted lists, whatever the lengths of the intervals. Values should be float64: rounding of the running
    sum is shared by all intervals. Gradient to `values`, once.

    `enter` and `leave` must both ascend, which holds for windows of one length over activations in order.
    """
    return _IntervalEnergy.apply(values, enter, leave)  # pyright: ignore[reportReturnType]


def dense_interval_energy(
    values: Float[Tensor, " e"], enter: Int[Tensor, " e"], leave: Int[Tensor, " e"]
) -> Float[Tensor, ""]:
    """The reference of `interval_energy`: one row a time, one column an interval."""
    times = torch.arange(int(leave.max()) if len(leave) else 0, device=values.device).unsqueeze(1)
    present = (times >= enter) & (times < leave)
    return (present.to(values.dtype) @ values).square().sum()


class _IntervalEnergy(torch.autograd.Function):
    """Energy = sum_k R_k^2 d_k over events k; its gradient for a value is 2 sum R_k d_k while the value is present."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, enter: Tensor, leave: Tensor) -> Tensor:
        # Merge: an event's place is its rank in its own list plus how many events of the other list come before it.
        # At one time those entering come first; the order there is free, since nothing lasts between them.
        rank = torch.arange(len(values), device=values.device)
        entered = torch.searchsorted(leave, enter).add_(rank)
        left = torch.searchsorted(enter, leave, right=True).add_(rank)
        times = enter.new_empty(2 * len(values))
        times[entered], times[left] = enter, leave
        steps = values.new_empty(2 * len(values))
        steps[entered], steps[left] = values, -values
        running = steps.cumsum(0)[:-1]
        weighed = running * times.diff()
        ctx.save_for_backward(weighed, entered, left)
        return running.dot(weighed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weighed, entered, left = ctx.saved_tensors
        before = torch.cat([weighed.new_zeros(1), weighed.cumsum(0)])
        return (before[left] - before[entered]) * (2 * grad), None, None
