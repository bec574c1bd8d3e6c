"""The k largest positive entries of every row of a tensor."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.gpu.candidates import candidates
from chronosae.kernels.gpu.entries import Extras
from chronosae.kernels.gpu.keep import keep_largest_of
from chronosae.kernels.select import largest_positive_dense

# A larger k is a good part of any row: torch's choice is as fast.
MOST = 4096


def largest_positive(
    pre: Float[Tensor, "n f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    bias: Float[Tensor, " f"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """As `kernels.largest_positive`: of `pre + bias`, for active tokens. Values are float32 where bias is given.

    torch chooses in float64 and for a k above `MOST`; which of equal entries is then its choice.
    """
    pre = pre.detach()
    if pre.dtype == torch.float64 or k > MOST:
        values, indices = largest_positive_dense(pre if bias is None else pre + bias, k)
        if active is not None:
            values, indices = torch.where(active.unsqueeze(1), values, 0), indices * active.unsqueeze(1)
        return values, indices
    pre = pre.contiguous()
    extras = Extras(bias)
    values, indices = keep_largest_of(candidates(pre, k, extras), pre, k, active, extras)
    return values if bias is not None else values.to(pre.dtype), indices
