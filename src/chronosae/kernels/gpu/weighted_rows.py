"""Sums over each feature's slots: both weights' gradients, and that of decoded values in the same pass.

A program adds up one segment of one feature's slots over a block of columns. All programs of one block of columns run
before those of the next, so that the columns of all tokens stay in the device's cache.

Shapes: N tokens, S slots, F d_sae, D d_in.
"""

from typing import no_type_check

import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.launch import launch, power_of_two, sum_dtype, sum_type
from chronosae.kernels.gpu.slots import Slots

BLOCK_S, MOST_D = 16, 256


def weighted_rows(
    slots: Slots, values: Float[Tensor, "n s"], x: Float[Tensor, "m d"], tokens: Int[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, "f d"], Float[Tensor, " f"]]:
    """Sums over each feature's slots of `value * x[token]`, and of `value`, in float32 or float64.

    `tokens` says whose slots a row holds, where several rows are one token's; else each is its own.
    """
    rows, sums, _ = _sums(slots, values, x, None, tokens)
    return rows, sums


def weighted_rows_and_dots(
    slots: Slots, values: Float[Tensor, "n s"], x: Float[Tensor, "n d"], W: Float[Tensor, "f d"]
) -> tuple[Float[Tensor, "f d"], Float[Tensor, "n s"]]:
    """The same rows, and `x[token] . W[feature]` for each slot, zero where the value is."""
    rows, _, products = _sums(slots, values, x, W, None)
    assert products is not None
    return rows, products.sum(0)


def _sums(
    slots: Slots, values: Tensor, x: Tensor, W: Tensor | None, tokens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    d_sae, width, dtype = len(slots.first), x.shape[1], sum_dtype(values, x)
    block = power_of_two(width, 16, MOST_D)
    blocks = triton.cdiv(width, block)
    rows, sums = x.new_zeros(d_sae, width, dtype=dtype), x.new_zeros(d_sae, dtype=dtype)
    # One row for each block of columns: partial products, a value a slot and block, never a row a slot.
    products = None if W is None else x.new_zeros(blocks, *values.shape, dtype=dtype)
    arguments = (
        values.contiguous(),
        x,
        W,
        tokens,
        slots.place,
        slots.start,
        slots.first,
        slots.owner,
        rows,
        sums,
        products,
    )
    sizes = slots.per_token, values.numel(), width, slots.length, d_sae
    constants = {"SUM": sum_type(values, x), "BLOCK_S": BLOCK_S, "BLOCK_D": block}
    launch(_weighted_rows, (len(slots.owner), blocks), *arguments, *sizes, **constants)
    return rows, sums, products


@triton.jit
@no_type_check
def _weighted_rows(
    values,
    x,
    W,
    tokens,
    place,
    start,
    first,
    owner,
    rows,
    sums,
    products,
    per_token,
    places,
    width,
    length,
    d_sae,
    SUM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    segment, block = tl.program_id(0), tl.program_id(1).to(tl.int64)
    f = tl.load(owner + segment)
    if f < d_sae:
        begin, end = tl.load(start + f), tl.load(start + f + 1)
        alone = end - begin <= length
        begin += (segment - tl.load(first + f)) * length
        end = tl.minimum(begin + length, end)
        d = block * BLOCK_D + tl.arange(0, BLOCK_D)
        total, weight = tl.zeros([BLOCK_S, BLOCK_D], SUM), tl.zeros([BLOCK_S], SUM)
        if W is not None:
            direction = tl.load(W + f * width + d, mask=d < width, other=0).to(SUM)
        for at in range(begin, end, BLOCK_S):
            q = at + tl.arange(0, BLOCK_S)
            p = tl.load(place + q, mask=q < end, other=0)
            value = tl.load(values + p, mask=q < end, other=0).to(SUM)
            inside = (q < end)[:, None] & (d < width)[None, :]
            t = p // per_token
            if tokens is not None:
                t = tl.load(tokens + t, mask=q < end, other=0)
            token = tl.load(x + t[:, None] * width + d[None, :], mask=inside, other=0).to(SUM)
            total += value[:, None] * token
            weight += value
            if W is not None:
                tl.store(products + block * places + p, tl.sum(token * direction[None, :], 1), mask=q < end)
        row, bias = tl.sum(total, 0), tl.sum(weight, 0)
        if alone:
            tl.store(rows + f * width + d, row, mask=d < width)
            if block == 0:
                tl.store(sums + f, bias)
        else:
            tl.atomic_add(rows + f * width + d, row, mask=d < width, sem="relaxed")
            if block == 0:
                tl.atomic_add(sums + f, bias, sem="relaxed")
