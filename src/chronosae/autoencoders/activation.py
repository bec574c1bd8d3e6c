"""Activation functions: which pre-activations become codes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.autoencoders.codes import Codes, DenseCodes, SparseCodes
from chronosae.autoencoders.spec import ActivationSpec, ReLU


def activate(
    spec: ActivationSpec,
    pre: Float[Tensor, "*tokens d_sae"],
    mask: Bool[Tensor, "*tokens"] | None,
    scale: Float[Tensor, "*tokens"] | None,
) -> Codes:
    """Codes of `pre`; masked tokens get none."""
    acts = torch.relu(pre)
    if isinstance(spec, ReLU):
        return DenseCodes(values=acts if mask is None else acts * mask.unsqueeze(-1), scale=scale)
    values, indices = select_topk(acts, spec.k, mask)
    return SparseCodes(values=values, scale=scale, indices=indices, n_features=pre.shape[-1])


def select_topk(
    acts: Float[Tensor, "*tokens d_sae"], k: int, mask: Bool[Tensor, "*tokens"] | None = None
) -> tuple[Float[Tensor, "*tokens slots"], Tensor]:
    """Values and indices of the k largest positive entries of each row, indices ascending, unused slots (0, 0)."""
    indices = acts.detach().topk(k, dim=-1, sorted=False).indices
    used = acts.detach().gather(-1, indices) > 0
    if mask is not None:
        used = used & mask.unsqueeze(-1)
    indices, order = torch.where(used, indices, 0).sort(dim=-1)
    values = acts.gather(-1, indices) * used.gather(-1, order)
    return values, indices
