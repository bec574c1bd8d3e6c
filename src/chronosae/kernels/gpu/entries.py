"""An entry of a row, made as it is read: bias, what earlier tokens add, and the weight it is compared with.

What isn't there costs nothing: a kernel is compiled without the arguments that are None.

Shapes: N tokens, F d_sae, L lags, P rows of gates.
"""

from typing import Any, NamedTuple, no_type_check

import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton import language as tl

from chronosae.kernels.gpu.ordered import LOWEST, ordered_key


class Extras(NamedTuple):
    """What comes on top of the rows `s` of a product: `pre_tf = s_tf + sum_l taps_lf s_(sources_lt)f + bias_f`.

    With gates, entries are compared by `max(pre_tf, 0) gates_(gate_rows_t)f`.
    """

    bias: Float[Tensor, " f"] | None = None
    taps: Float[Tensor, "l f"] | None = None
    sources: Int[Tensor, "l n"] | None = None
    """-1 where there is no earlier token."""
    gates: Float[Tensor, "p f"] | None = None
    gate_rows: Int[Tensor, " n"] | None = None

    @property
    def constants(self) -> dict[str, Any]:
        """What kernels are compiled for."""
        return {"LAGS": 0 if self.taps is None else len(self.taps)}


NOTHING = Extras()


@triton.jit
@no_type_check
def entries(s, t, f, inside, n, d_sae, bias, taps, sources, LAGS: tl.constexpr):
    """Pre-activations of token t at features f, in float32; -Inf outside."""
    values = tl.load(s + t * d_sae + f, mask=inside, other=-float("inf")).to(tl.float32)
    for lag in tl.static_range(LAGS):
        source = tl.load(sources + lag * n + t).to(tl.int64)
        there = tl.load(s + source * d_sae + f, mask=inside & (source >= 0), other=0).to(tl.float32)
        values += tl.load(taps + lag * d_sae + f, mask=inside, other=0).to(tl.float32) * there
    if bias is not None:
        values += tl.load(bias + f, mask=inside, other=0).to(tl.float32)
    return values


@triton.jit
@no_type_check
def keys(values, t, f, inside, d_sae, gates, gate_rows):
    """Ordered keys of what pre-activations are compared by."""
    if gates is not None:
        weight = tl.load(gates + tl.load(gate_rows + t).to(tl.int64) * d_sae + f, mask=inside, other=0).to(tl.float32)
        # Not `maximum`, which a NaN might not get through.
        values = tl.where(values < 0, 0.0, values) * weight
    return tl.where(inside, ordered_key(values), LOWEST)
