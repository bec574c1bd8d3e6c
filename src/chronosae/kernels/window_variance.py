"""Sums over sliding windows without visiting a window: each activation is an interval of the windows that hold it.

Shapes: E intervals. Time is an integer axis on which the features are laid end to end.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
