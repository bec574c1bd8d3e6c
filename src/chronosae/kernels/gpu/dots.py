"""Inner products of a token with a few rows of a weight, gathered as they are used.

Shapes: N tokens, S slots, F d_sae, D d_in.
"""

from typing import no_type_check

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.launch import launch, sum_dtype, sum_type

BLOCK_S, BLOCK_D = 16, 128


def dots(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    indices: Int[Tensor, "n s"],
    bias: Float[Tensor, " f"] | None = None,
    *,
    counts: Int[Tensor, " n"] | None = None,
    silent: Float[Tensor, "n s"] | None = None,
    out: Float[Tensor, "n s"] | None = None,
) -> Float[Tensor, "n s"]:
    """`x[t] . W[indices[t, s]] + bias`, summed in one order whatever the batch: it depends on the two rows alone.

    Arguments:
        counts: how many slots of each token are wanted; all by default.
        silent: only slots where this is zero are wanted.
        out: where results go; slots that aren't wanted stay as they are.
    """
    n, slots = indices.shape
    out = torch.empty(n, slots, dtype=sum_dtype(x, W), device=x.device) if out is None else out
    arguments = x, W, bias, indices, counts, silent, out, indices.stride(0), slots, x.shape[1]
    constants = {"SUM": sum_type(x, W), "BLOCK_S": BLOCK_S, "BLOCK_D": BLOCK_D}
    launch(_dots, (n, triton.cdiv(slots, BLOCK_S)), *arguments, **constants)
    return out


@triton.jit
@no_type_check
def _dots(
    x,
    W,
    bias,
    indices,
    counts,
    silent,
    out,
    stride,
    slots,
    width,
    SUM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    used = s < slots
    if counts is not None:
        used = used & (s < tl.load(counts + t))
    if silent is not None:
        used = used & (tl.load(silent + t * slots + s, mask=used, other=1) == 0)
    if tl.max(used.to(tl.int32), 0) > 0:
        f = tl.load(indices + t * stride + s, mask=used, other=0).to(tl.int64)
        total = tl.zeros([BLOCK_S, BLOCK_D], SUM)
        for start in range(0, width, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            token = tl.load(x + t * width + d, mask=d < width, other=0).to(SUM)
            inside = used[:, None] & (d < width)[None, :]
            total += tl.load(W + f[:, None] * width + d[None, :], mask=inside, other=0).to(SUM) * token[None, :]
        product = tl.sum(total, 1)
        if bias is not None:
            product += tl.load(bias + f, mask=used, other=0).to(SUM)
        tl.store(out + t * slots + s, product, mask=used)
