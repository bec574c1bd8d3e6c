"""What an encoder's features see beyond their own token: earlier tokens, and a weight for the place they stand at.

    s = x W^T,    pre_tf = s_tf + sum_l taps_lf s_(t-l)f + bias_f,    what is compared = max(pre_tf, 0) gate_tf

Shapes: N tokens, F d_sae, D d_in, L lags, P rows of gates.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Lookback(NamedTuple):
    """A weight for each lag and feature, and where each token's earlier ones are."""

    taps: Float[Tensor, "l f"]
    lags: tuple[int, ...]
    """Positive, ascending."""
    sources: Int[Tensor, "l n"]
    """The token a lag earlier, among all tokens of the batch; -1 where there is none of the same document."""


class Gate(NamedTuple):
    """Weights by which pre-activations are compared; no gradient passes here."""

    weights: Float[Tensor, "p f"]
    """At least 0."""
    rows: Int[Tensor, " n"]
    """Which row of the weights each token has."""


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


def compared(pre: Float[Tensor, "n f"], gate: Gate | None) -> Float[Tensor, "n f"]:
    """What the largest are found by."""
    return pre if gate is None else torch.relu(pre) * gate.weights[gate.rows]
