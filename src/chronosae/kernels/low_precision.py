"""Exact TopK of `x W^T + bias` from a product in low precision.

What is exact: the pre-activation of a token and a feature is `dot(x, W[f]) + bias[f]` in float32, summed in one fixed
order whatever the batch. Chosen are the k largest of all these (of equal ones the first); every one that could be
among them is computed. A dense float32 product differs from it in the order of summation alone, so the two choices
differ only where the k-th and the next pre-activation are closer than `ROUNDING d ||x|| ||W[f]||`.

Which could be among them follows from a product in bfloat16 and a bound on its error. With x' and W' the rounded rows,

    |x . w - x' . w'| <= ||x - x'|| ||w|| + ||x'|| ||w - w'||        (Cauchy-Schwarz)

whose norms are measured, not estimated; float32 sums add `ROUNDING d ||x'|| ||w'||`, the rounded result 2^-8 of itself.
Where the bound leaves too many candidates, the token's product is made in float32 (its bound holds the last part
alone); where even that doesn't decide, every pre-activation is computed.

Shapes: N tokens, F d_sae, D d_in, K k.
"""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels.compiled import evenly, parallel
from chronosae.kernels.memory import recycled
from chronosae.kernels.select import group_count

# Bound on the relative error of a float32 sum, for each term: two sums (2^-24 each), and then some.
ROUNDING = 2.0**-22
# Of computing norms.
SAFETY = 1 + 2.0**-10
# What flushing to zero may take away is far below this.
TINY = 1e-30
# Entries of a product that are in memory at once.
CHUNK = 2**25
# Fewer tokens don't pay for rounding all weights.
LEAST_TOKENS = 128


def low_precision_pays() -> bool:
    """The CPU has bfloat16 products that are faster than float32's."""
    known = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return any(is_supported is not None and is_supported() for is_supported in known)


def topk_of_product(
    loops: SimpleNamespace,
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Values and indices as `largest_positive` gives them, of the tokens that are active; float32 on the CPU."""
    inputs, weights = _rounded_inputs(loops, x), _rounded_weights(loops, W, bias)
    out = torch.zeros(len(x), k, dtype=torch.int64), x.new_zeros(len(x), k), torch.zeros(len(x), dtype=torch.bool)
    task = _Task(loops, x, W, bias, k, out)
    rows = torch.arange(len(x)) if active is None else active.nonzero().squeeze(1)
    for part in rows.split(max(1, CHUNK // len(W))):
        approx = recycled((len(part), len(W)), torch.bfloat16)
        torch.mm(inputs.rows if len(part) == len(x) else inputs.rows[part], weights.rows.T, out=approx)
        task.choose(approx.view(torch.int16), part, inputs, weights)
    task.decide_in_full(rows[out[2][rows]], inputs, weights)
    return out[1], out[0]


class _Rounded(NamedTuple):
    """Rows in bfloat16, and bounds on their norms and on what rounding took, the bias included."""

    rows: Tensor
    norms: Tensor
    errors: Tensor


class _Task(NamedTuple):
    """What every pass over tokens works on; `out` is indices, values and which tokens are undecided."""

    loops: SimpleNamespace
    x: Tensor
    W: Tensor
    bias: Tensor
    k: int
    out: tuple[Tensor, Tensor, Tensor]

    def choose(self, approx: Tensor, rows: Tensor, inputs: _Rounded, weights: _Rounded) -> None:
        """Decide `rows` by the bits of approximate pre-activations."""
        worst = torch.stack([weights.norms.max(), weights.errors.max()])
        before = (approx, rows, self.x, inputs.norms, inputs.errors, self.W, weights.norms, weights.errors, worst)
        arrays, out = [t.numpy() for t in (*before, self.bias)], tuple(t.numpy() for t in self.out)
        groups = group_count(self.k, len(self.W))
        parallel(evenly(len(rows), 16), lambda a, b: self.loops.choose(*arrays, self.k, groups, a, b, out))

    def decide_in_full(self, rows: Tensor, inputs: _Rounded, weights: _Rounded) -> None:
        """Decide `rows` by a product in float32, and those that remain by every exact pre-activation."""
        inputs = inputs._replace(errors=_sums(inputs, self.x.shape[1]))
        weights = weights._replace(errors=torch.full_like(weights.errors, TINY))
        # Elsewhere torch may have been told to make float32 products out of bfloat16 ones.
        if torch.get_float32_matmul_precision() == "highest":
            for part in rows.split(max(1, CHUNK // 2 // len(self.W))):
                approx = torch.addmm(self.bias, self.x[part], self.W.T)
                self.choose(approx.view(torch.int32), part, inputs, weights)
            rows = rows[self.out[2][rows]]
        if len(rows):
            arrays, out = [t.numpy() for t in (rows, self.x, self.W, self.bias)], tuple(t.numpy() for t in self.out)
            parallel(evenly(len(rows)), lambda a, b: self.loops.scan(*arrays, self.k, a, b, out))


def _sums(inputs: _Rounded, d_in: int) -> Tensor:
    """The part of the inputs' error that summing in float32 makes."""
    return inputs.norms * (ROUNDING * (d_in + 4)) + TINY


def _rounded_inputs(loops: SimpleNamespace, x: Tensor) -> _Rounded:
    # Two columns of ones: what the bias is multiplied by.
    rows, norms, errors = _round(loops, x, torch.ones(len(x), 2, dtype=torch.bfloat16))
    rounded = _Rounded(rows, torch.hypot(norms + errors, torch.ones(())) * SAFETY, errors * SAFETY)
    return rounded._replace(errors=rounded.errors + _sums(rounded, x.shape[1]))


def _rounded_weights(loops: SimpleNamespace, W: Tensor, bias: Tensor) -> _Rounded:
    # The bias in two columns, the second for what the first loses; what both lose counts as lost.
    high = bias.bfloat16()
    low = (bias - high.float()).bfloat16()
    rows, norms, errors = _round(loops, W, torch.stack([high, low], 1))
    lost = bias - high.float() - low.float()
    return _Rounded(rows, torch.hypot(norms, bias) * SAFETY, torch.hypot(errors, lost) * SAFETY + TINY)


def _round(loops: SimpleNamespace, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 copies with `columns` beside them, norms of the rows, and of what the copies lack."""
    n, d = rows.shape
    copy = recycled((n, d + columns.shape[1]), torch.bfloat16)
    norms, errors = torch.empty(n), torch.empty(n)
    bits = rows.view(torch.int32).numpy().view("uint32"), copy.view(torch.int16).numpy().view("uint16")
    arrays = rows.numpy(), *bits, columns.view(torch.int16).numpy().view("uint16")
    parallel(evenly(n, 256), lambda a, b: loops.round_rows(*arrays, a, b, norms.numpy(), errors.numpy()))
    return copy, norms, errors
