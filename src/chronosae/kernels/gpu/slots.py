"""Sums over slots, by token or by feature: decoding sparse codes, and the gradients of both weights.

A feature may fire at every token of a batch while most fire at a few: one program a feature would wait for the busiest.
So slots are put in the order of their features and cut into segments of about the same work; a program adds up one
segment over a block of columns. All programs of one block of columns run before those of the next, so that the block's
columns, of the whole weight or of all tokens, stay in the device's cache.

Shapes: N tokens, S slots, F d_sae, D d_in, P = N S places, G segments.
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

from chronosae.kernels.gpu.base import launch, low_dtype, lowered, power_of_two, sum_dtype, sum_type
from chronosae.kernels.gpu.exact import dots

# Slots of one feature that one program adds up.
SEGMENT = 128
BLOCK_S, MOST_D = 16, 256


def sparse_decode(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W_dec: Float[Tensor, "f d"],
    b_dec: Float[Tensor, " d"] | None,
) -> Float[Tensor, "n d"]:
    """As `kernels.sparse_decode` for one row a token. Under autocast rows are read in its type, sums are in float32."""
    return _Decode.apply(indices.contiguous(), values, W_dec.contiguous(), b_dec)  # pyright: ignore[reportReturnType]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
        ctx.low = low_dtype(W_dec)
        values, W = values.detach().contiguous(), W_dec.detach()
        ctx.save_for_backward(indices, values, W)
        recon = combine(indices, values, lowered(W, ctx.low), None if b_dec is None else b_dec.detach())
        return recon.to(W_dec.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        indices, values, W = ctx.saved_tensors
        grad = grad.contiguous()
        slopes = lowered(grad, ctx.low)
        grad_W, grad_values = weighted_rows_and_dots(by_feature(indices, values, len(W)), values, slopes, W)
        # Slots of value 0 are in no feature's list, but have a gradient all the same.
        dots(slopes, W, indices, silent=values, out=grad_values)
        grad_b = grad.sum(0) if ctx.needs_input_grad[3] else None
        return None, grad_values.to(values.dtype), grad_W.to(W.dtype), grad_b


def count_active(
    indices: Int[Tensor, "n s"], values: Float[Tensor, "n s"], d_sae: int
) -> tuple[Int[Tensor, " f"], Int[Tensor, " n"]]:
    """As `kernels.count_active`, without waiting for the device."""
    n, slots = indices.shape
    features = torch.zeros(d_sae, dtype=torch.int64, device=values.device)
    tokens = torch.empty(n, dtype=torch.int64, device=values.device)
    arguments = values.contiguous(), indices.contiguous(), features, tokens, slots
    launch(_count, (n,), *arguments, BLOCK=power_of_two(slots, 16, 1024), num_warps=1)
    return features, tokens


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


def combine(
    indices: Int[Tensor, "n s"],
    values: Float[Tensor, "n s"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "n d"]:
    """`sum_s values[t, s] W[indices[t, s]] + bias` for each token t, in float32 or float64."""
    (n, slots), width = indices.shape, W.shape[1]
    out = torch.empty(n, width, dtype=sum_dtype(values, W), device=W.device)
    block = power_of_two(width, 16, MOST_D)
    constants = {"SUM": sum_type(values, W), "BLOCK_S": BLOCK_S, "BLOCK_D": block}
    arguments = indices.contiguous(), values.contiguous(), W, bias, out, slots, width
    launch(_combine, (n, triton.cdiv(width, block)), *arguments, **constants)
    return out


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
def _count(values, indices, features, tokens, slots, BLOCK: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    active = tl.zeros([BLOCK], tl.int64)
    for start in range(0, slots, BLOCK):
        s = start + tl.arange(0, BLOCK)
        used = tl.load(values + t * slots + s, mask=s < slots, other=0) != 0
        f = tl.load(indices + t * slots + s, mask=used, other=0)
        tl.atomic_add(features + f, used.to(tl.int64), mask=used, sem="relaxed")
        active += used.to(tl.int64)
    tl.store(tokens + t, tl.sum(active, 0))


@triton.jit
@no_type_check
def _combine(
    indices, values, W, bias, out, slots, width, SUM: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr
):
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_S, BLOCK_D], SUM)
    for start in range(0, slots, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        value = tl.load(values + t * slots + s, mask=s < slots, other=0).to(SUM)
        f = tl.load(indices + t * slots + s, mask=s < slots, other=0).to(tl.int64)
        # Unused slots read nothing. A NaN isn't zero, and stays.
        inside = (value != 0)[:, None] & (d < width)[None, :]
        total += value[:, None] * tl.load(W + f[:, None] * width + d[None, :], mask=inside, other=0).to(SUM)
    row = tl.sum(total, 0)
    if bias is not None:
        row += tl.load(bias + d, mask=d < width, other=0).to(SUM)
    tl.store(out + t * width + d, row, mask=d < width)


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
