"""What a step under autocast computes in."""

import torch
from torch import Tensor


def low_dtype(*tensors: Tensor) -> torch.dtype | None:
    """The half-wide type of products: autocast's, or the tensors' own; None: full precision."""
    first = tensors[0]
    if first.dtype == torch.float64:
        return None
    if torch.is_autocast_enabled(first.device.type):
        return torch.get_autocast_dtype(first.device.type)
    return first.dtype if first.dtype in (torch.bfloat16, torch.float16) else None


def lowered(x: Tensor, low: torch.dtype | None) -> Tensor:
    """`x` in that type."""
    return x if low is None else x.to(low)


def without_autocast(device: torch.device) -> torch.autocast:
    """Inside, types are what they are."""
    return torch.autocast(device.type, enabled=False)
