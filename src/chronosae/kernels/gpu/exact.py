"""Exact TopK of `x W^T + bias` from a product in bfloat16: rules and bound of `kernels.reference`, on a GPU.

There the bias is part of the product; here it is added to the product's rounded entries, which keeps the product's
inner size as it is. A float32 sum on tensor cores is taken to err by no more than `ROUNDING` a term.

Shapes: N tokens, S slots, F d_sae, D d_in, K k.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, no_type_check

import torch
import triton
from jaxtyping import Bool, Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.base import launch, sum_dtype, sum_type
from chronosae.kernels.gpu.select import Extras, candidates, keep_largest, keep_largest_of
from chronosae.kernels.reference import SAFETY, TINY, Rounded, summing_error

# Entries of a product that are in memory at once.
CHUNK = 2**28
# For tokens that no bound decides.
FULL_CHUNK = 2**24
# Rows that one program rounds.
ROWS = 8
# Of inner products.
BLOCK_S, BLOCK_D = 16, 128


def topk_of_product(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values and indices as `kernels.largest_positive` gives them, of the tokens that are active; all float32.

    Waits for the device once, to learn whether any token is undecided.
    """
    inputs, weights, n = rounded(x), rounded(W), len(x)
    out = x.new_empty(n, k), torch.empty(n, k, dtype=torch.int64, device=x.device)
    undecided = torch.zeros(n, dtype=torch.bool, device=x.device)
    task = _Task(x, W, bias, k, active, *out, undecided)
    summing = summing_error(inputs, x.shape[1])
    with _whole_sums(x.device):
        slack = _slack(inputs, weights, bias, inputs.errors + summing, 2.0**-7)
        task.decide(_slices(n, CHUNK // len(W)), lambda part: inputs.rows[part] @ weights.rows.T, slack)
        rows = undecided.nonzero().squeeze(1)
        # torch may have been told to make float32 products out of narrower ones.
        if len(rows) and torch.get_float32_matmul_precision() == "highest":
            slack = _slack(inputs, weights.without_rounding(), bias, summing, 2.0**-22)
            task.decide(rows.split(max(1, CHUNK // 2 // len(W))), lambda part: x[part] @ W.T, slack)
            rows = undecided.nonzero().squeeze(1)
        for part in rows.split(max(1, FULL_CHUNK // len(W))):
            task.decide_in_full(part)
    return out


class _Task(NamedTuple):
    """What every pass over tokens works on; the last three are results, the very last which tokens lack one."""

    x: Tensor
    W: Tensor
    bias: Tensor
    k: int
    active: Tensor | None
    values: Tensor
    indices: Tensor
    undecided: Tensor

    def decide(
        self, parts: Iterable[slice | Tensor], product: Callable[[slice | Tensor], Tensor], slack: Tensor
    ) -> None:
        """Decide tokens by products that are within `slack` (and their rounding) of exact ones."""
        extras = Extras(self.bias)
        for part in parts:
            found = candidates(product(part), self.k, extras, slack[part])
            overfull = found.overfull
            # Nothing is known of their candidates.
            found = found._replace(counts=torch.where(overfull, 0, found.counts))
            exact = dots(self.x[part], self.W, found.indices, self.bias, counts=found.counts)
            active = None if self.active is None else self.active[part]
            self.values[part], self.indices[part] = keep_largest(found, exact, self.k, active)
            self.undecided[part] = overfull if active is None else overfull & active

    def decide_in_full(self, rows: Tensor) -> None:
        """Decide tokens by every exact pre-activation."""
        every = torch.arange(len(self.W), dtype=torch.int32, device=rows.device).expand(len(rows), -1)
        exact = dots(self.x[rows], self.W, every, self.bias)
        self.values[rows], self.indices[rows] = keep_largest_of(candidates(exact, self.k), exact, self.k)


def rounded(rows: Float[Tensor, "n d"]) -> Rounded:
    """bfloat16 copies, with bounds on the norms of the rows and of what the copies lack."""
    n, width = rows.shape
    copy = torch.empty_like(rows, dtype=torch.bfloat16)
    norms, errors = rows.new_empty(n), rows.new_empty(n)
    launch(_round, (triton.cdiv(n, ROWS),), rows, copy, norms, errors, n, width, ROWS=ROWS, BLOCK=256)
    return Rounded(copy, (norms + errors) * SAFETY, errors * SAFETY + TINY)


def _slack(inputs: Rounded, weights: Rounded, bias: Tensor, errors: Tensor, rounding: float) -> Tensor:
    """What an approximate pre-activation may lack, but for the rounding of the result, by token.

    The result is rounded before the bias is added: the bias counts into what rounding is relative to.
    """
    return errors * weights.norms.max() + inputs.norms * weights.errors.max() + rounding * bias.abs().max()


def _slices(n: int, length: int) -> list[slice]:
    length = max(1, length)
    return [slice(start, start + length) for start in range(0, n, length)]


@contextmanager
def _whole_sums(device: torch.device) -> Iterator[None]:
    """Products in bfloat16 whose sums stay in float32 to the end, and no autocast."""
    flags = torch.backends.cuda.matmul
    before = flags.allow_bf16_reduced_precision_reduction
    flags.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        flags.allow_bf16_reduced_precision_reduction = before


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

    Args:
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
def _round(rows, copy, norms, errors, n, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    square, error = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        place, inside = r[:, None] * width + i[None, :], (r < n)[:, None] & (i < width)[None, :]
        value = tl.load(rows + place, mask=inside, other=0)
        low = value.to(tl.bfloat16)
        rest = value - low.to(tl.float32)
        tl.store(copy + place, low, mask=inside)
        square += value * value
        error += rest * rest
    tl.store(norms + r, tl.sqrt(tl.sum(square, 1)), mask=r < n)
    tl.store(errors + r, tl.sqrt(tl.sum(error, 1)), mask=r < n)


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
