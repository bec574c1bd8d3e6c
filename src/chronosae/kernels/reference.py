"""What an encoder's kernels choose and return, by definition: dense torch, the ground that loops and Triton stand on.

    s = x W^T,    pre_tf = s_tf + sum_l taps_lf s_(t-l)f + bias_f,    what is compared = max(pre_tf, 0) weights_tf

The k features of each token for which the last is largest and positive get a slot each, with `pre` for a value. Codes
are slots in the order of their features, after unused ones, which are (value 0, index 0).

And the bound on which exact choices from products in low precision stand. What is exact: the pre-activation of a token
and a feature is `dot(x, W[f]) + bias[f]` in float32, summed in one fixed order whatever the batch. Chosen are the k
largest of all these (of equal ones the first); every one that could be among them is computed. A dense float32 product
differs from it in the order of summation alone, so the two choices differ only where the k-th and the next
pre-activation are closer than `ROUNDING d ||x|| ||W[f]||`.

Which could be among them follows from a product in bfloat16 and a bound on its error. With x' and W' the rounded rows,

    |x . w - x' . w'| <= ||x - x'|| ||w|| + ||x'|| ||w - w'||        (Cauchy-Schwarz)

whose norms are measured, not estimated; float32 sums add `ROUNDING d ||x'|| ||w'||`, the rounded result 2^-8 of itself.
Where the bound leaves too many candidates, the token's product is made in float32 (its bound holds the last part
alone); where even that doesn't decide, every pre-activation is computed. Where features look back along the context,
the bound goes through the sum over lags with the taps' magnitudes.

References of what has no form for a GPU stand beside their fast path.

Shapes: N tokens, F d_sae, D d_in, K k, M further features, L lags, P rows of position weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Lookback(NamedTuple):
    """A weight for each lag and feature, and where each token's earlier ones are."""

    taps: Float[Tensor, "l f"]
    lags: tuple[int, ...]
    """Positive, ascending."""
    sources: Int[Tensor, "l n"]
    """The token a lag earlier, among all tokens of the batch; -1 where there is none of the same document."""

    def of_active(self, active: Bool[Tensor, " n"] | None) -> "Lookback":
        """Without gradient, and without tokens that aren't active, whose rows are zero and don't hold the centre."""
        sources = self.sources
        if active is not None:
            sources = torch.where((sources >= 0) & active[sources.clamp_min(0)], sources, -1)
        return Lookback(self.taps.detach().contiguous(), self.lags, sources.contiguous())


class PositionWeights(NamedTuple):
    """Weights by which pre-activations are compared; no gradient passes here."""

    weights: Float[Tensor, "p f"]
    """At least 0."""
    rows: Int[Tensor, " n"]
    """Which row of the weights each token has."""

    def detached(self) -> "PositionWeights":
        """Without gradient, side by side in memory."""
        return PositionWeights(self.weights.detach().contiguous(), self.rows.contiguous())


class Choice(NamedTuple):
    """The chosen features of each token, indices ascending after unused slots (0, 0)."""

    indices: Int[Tensor, "n k"]
    values: Float[Tensor, "n k"]
    """Pre-activations, not weighed."""
    lagged: Float[Tensor, "n k l"]
    """What x W^T is at the earlier tokens, for the same features; zero where there is none."""


Chosen = tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, "n m"] | None]


class Moments(NamedTuple):
    """What AdamW remembers of a parameter, in the parameter's shape and memory layout."""

    mean: Tensor
    square: Tensor


class Rates(NamedTuple):
    """AdamW's numbers at one step (`step` counts from 1)."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int


def no_lookback(tokens: int, bias: Float[Tensor, " f"]) -> Lookback:
    """That of features which see their own token alone."""
    return Lookback(bias.new_zeros(0, len(bias)), (), torch.zeros(0, tokens, dtype=torch.int64, device=bias.device))


def tokens_at(
    shape: tuple[int, int], lags: tuple[int, ...], doc_ids: Int[Tensor, "batch pos"] | None
) -> Int[Tensor, "l n"]:
    """Index of the token `lag` places earlier (later, if negative), sequences laid end to end.

    -1 where that is outside the sequence or in another document.
    """
    batch, pos = shape
    device = None if doc_ids is None else doc_ids.device
    token = torch.arange(batch * pos, device=device).view(batch, pos)
    found = token.new_full((len(lags), batch, pos), -1)
    for source, lag in zip(found, lags, strict=True):
        if abs(lag) >= pos:
            continue
        here, there = slice(max(lag, 0), pos + min(lag, 0)), slice(max(-lag, 0), pos - max(lag, 0))
        if doc_ids is None:
            source[:, here] = token[:, there]
        else:
            source[:, here] = torch.where(doc_ids[:, here] == doc_ids[:, there], token[:, there], -1)
    return found.flatten(1)


def look_back(s: Float[Tensor, "n f"], back: Lookback) -> Float[Tensor, "n f"]:
    """`s` with what earlier tokens add; plain torch, with gradients to `s` and the taps."""
    y = s
    for taps, source in zip(back.taps, back.sources, strict=True):
        there = s[source.clamp_min(0)] * (source >= 0).unsqueeze(1)
        y = y + taps * there
    return y


def compared(pre: Float[Tensor, "n f"], position_weights: PositionWeights | None) -> Float[Tensor, "n f"]:
    """What the largest are found by."""
    if position_weights is None:
        return pre
    return torch.relu(pre) * position_weights.weights[position_weights.rows]


def largest_positive_dense(pre: Float[Tensor, "n f"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The reference of `largest_positive`; which of equal entries it takes is torch's choice."""
    values, indices = pre.detach().topk(k, dim=-1, sorted=False)
    indices = torch.where(values <= 0, 0, indices).sort(dim=-1).values
    return at_slots(pre.detach(), indices), indices


def at_slots(
    pre: Float[Tensor, "n f"], indices: Int[Tensor, "n k"], active: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n k"]:
    """The positive entries of each row at indices that ascend after unused slots; zero in these. Gradient to `pre`.

    Feature 0 and an unused slot have the same name, but feature 0's own slot is the last one that bears it.
    """
    ours = torch.cat([indices[:, 1:] != 0, torch.ones_like(indices[:, :1], dtype=torch.bool)], 1)
    values = pre.gather(1, indices)
    # Not `values > 0`: a NaN must stay visible, or broken weights would look like an autoencoder that never fires.
    used = ~(values <= 0) & ours
    return torch.where(used if active is None else used & active.unsqueeze(1), values, 0)


def choose_dense(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    back: Lookback,
    position_weights: PositionWeights | None,
    k: int,
    active: Bool[Tensor, " n"] | None,
    largest: Callable[[Tensor, int], tuple[Tensor, Tensor]] = largest_positive_dense,
) -> Choice:
    """The choice by computing every pre-activation, without gradient."""
    if not back.lags and position_weights is None:
        s = pre = torch.addmm(bias, x, W.T)
    else:
        s = x @ W.T
        pre = look_back(s, back) + bias
    used, indices = _chosen(compared(pre, position_weights), k, active, largest)
    there = used & (back.sources >= 0).unsqueeze(2)
    lagged = torch.where(there, s[back.sources.clamp_min(0).unsqueeze(2), indices], 0)
    values = torch.where(used, pre.gather(1, indices), 0)
    return Choice(indices, values, lagged.permute(1, 2, 0).contiguous())


def encode_topk_in_context_dense(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    back: Lookback,
    position_weights: PositionWeights | None = None,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> Chosen:
    """The reference of `encode_topk_in_context`: every pre-activation, with a gradient as large."""
    if centre is not None:
        moved = centre.detach() - centre
        x = x.detach() + (moved if active is None else moved * active.unsqueeze(-1))
    s = x @ W.T
    pre = look_back(s, back) + bias
    used, indices = _chosen(compared(pre, position_weights), k, active, largest_positive_dense)
    return torch.where(used, pre.gather(1, indices), 0), indices, None if wanted is None else s[:, wanted]


def _chosen(
    compared_by: Float[Tensor, "n f"],
    k: int,
    active: Bool[Tensor, " n"] | None,
    largest: Callable[[Tensor, int], tuple[Tensor, Tensor]],
) -> tuple[Bool[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Which slots are used, and their features, 0 for the others."""
    best, indices = largest(compared_by, k)
    used = best != 0 if active is None else (best != 0) & active.unsqueeze(1)
    return used, torch.where(used, indices, 0)


def encode_topk_dense(
    x: Float[Tensor, "n d"],
    W: Float[Tensor, "f d"],
    bias: Float[Tensor, " f"],
    k: int,
    active: Bool[Tensor, " n"] | None = None,
    centre: Float[Tensor, " d"] | None = None,
    wanted: Int[Tensor, " m"] | None = None,
) -> Chosen:
    """The reference of `encode_topk`."""
    return encode_topk_in_context_dense(x, W, bias, k, no_lookback(len(x), bias), None, active, centre, wanted)


def dense_decode(
    indices: Int[Tensor, "*tokens slots"], values: Float[Tensor, "*tokens slots"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "*tokens d_in"]:
    """The reference of `sparse_decode`: scatter into a dense [*tokens, d_sae] tensor, then one product."""
    return scatter_dense(indices, values, W_dec.shape[0]) @ W_dec


def scatter_dense(
    indices: Int[Tensor, "*tokens slots"], values: Float[Tensor, "*tokens slots"], d_sae: int
) -> Float[Tensor, "*tokens d_sae"]:
    """Sparse codes as a dense tensor; slots that name the same feature (unused ones name 0 with value 0) add up."""
    dense = torch.zeros(*indices.shape[:-1], d_sae, dtype=values.dtype, device=values.device)
    return dense.scatter_add(-1, indices, values)


def squared_error_dense(
    target: Float[Tensor, "*tokens d"], estimate: Float[Tensor, "*tokens d"], active: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """The reference of `squared_error`."""
    return torch.where(active.unsqueeze(-1), target - estimate, 0).pow(2).sum(-1).sum()


# Bound on the relative error of a float32 sum, for each term: two sums (2^-24 each), and then some.
ROUNDING = 2.0**-22
# Of computing norms.
SAFETY = 1 + 2.0**-10
# What flushing to zero may take away is far below this.
TINY = 1e-30
# Fewer tokens don't pay for rounding all weights.
LEAST_TOKENS = 128


class Rounded(NamedTuple):
    """Rows in bfloat16, and bounds on their norms and on what rounding took, the bias included."""

    rows: Tensor
    norms: Tensor
    errors: Tensor

    def without_rounding(self) -> "Rounded":
        """What weights lose in a product of the rows as they are: nothing."""
        return self._replace(errors=torch.full_like(self.errors, TINY))


def summing_error(inputs: Rounded, d_in: int) -> Float[Tensor, " n"]:
    """The part of the inputs' error that summing in float32 makes."""
    return inputs.norms * (ROUNDING * (d_in + 4)) + TINY


def low_precision_pays() -> bool:
    """The CPU has bfloat16 products that are faster than float32's."""
    known = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return any(is_supported is not None and is_supported() for is_supported in known)
