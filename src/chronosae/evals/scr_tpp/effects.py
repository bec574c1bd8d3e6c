"""How much each feature contributes to a probe's decision, and which are chosen to be zeroed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.evals.scr_tpp.options import Protocol


def effects_either_way(
    contrast: Float[Tensor, "tasks d_sae"], weight: Float[Tensor, "tasks d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "tasks d_sae"]:
    """|(mean code of positive texts - mean code of the others)_f x (probe . W_dec_f)|, for SCR.

    Without the sign it is what zeroing the feature takes off the difference between the probe's mean logits of the two.
    """
    return (contrast * (weight @ W_dec.T)).abs()


def effects_for_class(
    contrast: Float[Tensor, "tasks d_sae"], weight: Float[Tensor, "tasks d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "tasks d_sae"]:
    """The same with its sign, for TPP, and 0 for features that don't fire more on the class than elsewhere."""
    return contrast.clamp(min=0.0) * (weight @ W_dec.T)


def choose(effects: Float[Tensor, " d_sae"], n: int, protocol: Protocol) -> Int[Tensor, " chosen"]:
    """The `n` features of largest effect, fewer where fewer have one.

    Ours takes effects above 0 only. SAEBench counts all that aren't 0: where features of negative effect raise the
    count above the number of positive ones, it goes on to features without effect. Effects that are NaN or infinite,
    those of broken codes, are never taken.
    """
    finite = effects.isfinite()
    has_effect = finite & (effects != 0 if protocol == "saebench" else effects > 0)
    return effects.where(finite, -torch.inf).topk(min(n, int(has_effect.sum()))).indices
