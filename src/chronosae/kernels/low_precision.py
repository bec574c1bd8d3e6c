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
from chronosae.kernels.rounded import TINY, Rounded, rounded_inputs, rounded_weights, summing_error
from chronosae.kernels.select import group_count

# Entries of a product that are in memory at once: few enough that a step stays near its weights, many enough for speed.
CHUNK = 3 * 2**22
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
    inputs, weights = rounded_inputs(loops, x), rounded_weights(loops, W, bias)
    out = torch.zeros(len(x), k, dtype=torch.int64), x.new_zeros(len(x), k), torch.zeros(len(x), dtype=torch.bool)
    task = _Task(loops, x, W, bias, k, out)
    rows = torch.arange(len(x)) if active is None else active.nonzero().squeeze(1)
    for part in rows.split(max(1, CHUNK // len(W))):
        task.choose(product_bits(inputs, weights, part), part, inputs, weights)
    task.decide_in_full(rows[out[2][rows]], inputs, weights)
    return out[1], out[0]


def product_bits(inputs: Rounded, weights: Rounded, rows: Int[Tensor, " r"]) -> Int[Tensor, "r f"]:
    """Approximate pre-activations of some tokens, as the bits of bfloat16."""
    approx = recycled((len(rows), len(weights.rows)), torch.bfloat16)
    torch.mm(inputs.rows if len(rows) == len(inputs.rows) else inputs.rows[rows], weights.rows.T, out=approx)
    return approx.view(torch.int16)


class _Task(NamedTuple):
    """What every pass over tokens works on; `out` is indices, values and which tokens are undecided."""

    loops: SimpleNamespace
    x: Tensor
    W: Tensor
    bias: Tensor
    k: int
    out: tuple[Tensor, Tensor, Tensor]

    def choose(self, approx: Tensor, rows: Tensor, inputs: Rounded, weights: Rounded) -> None:
        """Decide `rows` by the bits of approximate pre-activations."""
        worst = torch.stack([weights.norms.max(), weights.errors.max()])
        before = (approx, rows, self.x, inputs.norms, inputs.errors, self.W, weights.norms, weights.errors, worst)
        arrays, out = [t.numpy() for t in (*before, self.bias)], tuple(t.numpy() for t in self.out)
        groups = group_count(self.k, len(self.W))
        parallel(evenly(len(rows), 16), lambda a, b: self.loops.choose(*arrays, self.k, groups, a, b, out))

    def decide_in_full(self, rows: Tensor, inputs: Rounded, weights: Rounded) -> None:
        """Decide `rows` by a product in float32, and those that remain by every exact pre-activation."""
        inputs = inputs._replace(errors=summing_error(inputs, self.x.shape[1]))
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
