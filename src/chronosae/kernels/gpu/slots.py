"""Slots in the order of their features, cut into segments of about the same work.

A feature may fire at every token of a batch while most fire at a few: one program a feature would wait for the busiest.

Shapes: N tokens, S slots, F d_sae, P = N S places, G segments.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Slots of one feature that one program adds up.
SEGMENT = 128


class Slots(NamedTuple):
    """Places of feature f are `place[start[f]:start[f + 1]]`, cut into segments from `first[f]` on.

    Segment g belongs to feature `owner[g]`; segments beyond the last name feature F.
    """

    place: Int[Tensor, " p"]
    start: Int[Tensor, " f_1"]
    first: Int[Tensor, " f"]
    owner: Int[Tensor, " g"]
    length: int
    per_token: int


class _Latest(NamedTuple):
    """The latest result, and what it was made of. Holding these tensors keeps others from taking their memory."""

    key: tuple
    tensors: tuple[Tensor, Tensor]
    slots: Slots


_latest: _Latest | None = None


def by_feature(indices: Int[Tensor, "n s"], values: Float[Tensor, "n s"], d_sae: int) -> Slots:
    """A stable sort of the slots whose value isn't zero; nothing waits for the device.

    A segment has `SEGMENT` slots, or all of its feature's under `torch.use_deterministic_algorithms(True)`, so that no
    two programs add to the same sum. Decoder and encoder ask in turn for the same slots: the latest answer is kept.
    """
    global _latest
    length = max(1, values.numel()) if torch.are_deterministic_algorithms_enabled() else SEGMENT
    key = d_sae, length, *((t.data_ptr(), t._version, t.shape, t.stride(), t.dtype) for t in (indices, values))
    kept = _latest
    if kept is None or kept.key != key:
        kept = _latest = _Latest(key, (indices, values), _sorted(indices, values, d_sae, length))
    return kept.slots


def _sorted(indices: Tensor, values: Tensor, d_sae: int, length: int) -> Slots:
    features = torch.where(values != 0, indices, d_sae).flatten().int()
    ordered, place = features.sort(stable=True)
    start = torch.searchsorted(ordered, torch.arange(d_sae + 1, dtype=torch.int32, device=indices.device))
    places = features.numel()
    segments = (start.diff() + length - 1) // length
    last = segments.cumsum(0)
    most = min(d_sae, places) + places // length
    owner = torch.searchsorted(last, torch.arange(most, device=indices.device), right=True)
    return Slots(place, start, last - segments, owner, length, indices.shape[1])
