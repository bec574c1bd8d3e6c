"""Rows in bfloat16, with bounds on what they lost: the ground that an exact choice by inexact products stands on.

Shapes: N tokens, F d_sae, D d_in.
"""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.kernels.compiled import bits, evenly, parallel
from chronosae.kernels.memory import recycled

# Bound on the relative error of a float32 sum, for each term: two sums (2^-24 each), and then some.
ROUNDING = 2.0**-22
# Of computing norms.
SAFETY = 1 + 2.0**-10
# What flushing to zero may take away is far below this.
TINY = 1e-30


class Rounded(NamedTuple):
    """Rows in bfloat16, and bounds on their norms and on what rounding took, the bias included."""

    rows: Tensor
    norms: Tensor
    errors: Tensor


def summing_error(inputs: Rounded, d_in: int) -> Float[Tensor, " n"]:
    """The part of the inputs' error that summing in float32 makes."""
    return inputs.norms * (ROUNDING * (d_in + 4)) + TINY


def rounded_inputs(loops: SimpleNamespace, x: Float[Tensor, "n d"]) -> Rounded:
    """Tokens, with two columns of ones: what the bias is multiplied by."""
    rows, norms, errors = _round(loops, x, torch.ones(len(x), 2, dtype=torch.bfloat16))
    rounded = Rounded(rows, torch.hypot(norms + errors, torch.ones(())) * SAFETY, errors * SAFETY)
    return rounded._replace(errors=rounded.errors + summing_error(rounded, x.shape[1]))


def rounded_weights(loops: SimpleNamespace, W: Float[Tensor, "f d"], bias: Float[Tensor, " f"]) -> Rounded:
    """Weights, with the bias in two columns, the second for what the first loses; what both lose counts as lost."""
    high = bias.bfloat16()
    low = (bias - high.float()).bfloat16()
    rows, norms, errors = _round(loops, W, torch.stack([high, low], 1))
    lost = bias - high.float() - low.float()
    return Rounded(rows, torch.hypot(norms, bias) * SAFETY, torch.hypot(errors, lost) * SAFETY + TINY)


def _round(loops: SimpleNamespace, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 copies with `columns` beside them, norms of the rows, and of what the copies lack."""
    n, d = rows.shape
    copy = recycled((n, d + columns.shape[1]), torch.bfloat16)
    norms, errors = torch.empty(n), torch.empty(n)
    arrays = rows.numpy(), rows.view(torch.int32).numpy().view("uint32"), bits(copy), bits(columns)
    parallel(evenly(n, 256), lambda a, b: loops.round_rows(*arrays, a, b, norms.numpy(), errors.numpy()))
    return copy, norms, errors
