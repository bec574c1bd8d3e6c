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
    if isinstance(spec, ReLU):
        acts = torch.relu(pre)
        return DenseCodes(values=acts if mask is None else acts * mask.unsqueeze(-1), scale=scale)
    values, indices = select_topk(pre, spec.k, mask)
    return SparseCodes(values=values, scale=scale, indices=indices, n_features=pre.shape[-1])


def select_topk(
    pre: Float[Tensor, "*tokens d_sae"], k: int, mask: Bool[Tensor, "*tokens"] | None = None
) -> tuple[Float[Tensor, "*tokens slots"], Tensor]:
    """Values and indices of the k largest positive entries of each row, indices ascending, unused slots (0, 0)."""
    chosen, indices = pre.detach().topk(k, dim=-1, sorted=False)
    # Not `chosen > 0`: a NaN must stay visible, or broken weights would look like an autoencoder that never fires.
    used = ~(chosen <= 0)
    if mask is not None:
        used = used & mask.unsqueeze(-1)
    indices, order = torch.where(used, indices, 0).sort(dim=-1)
    # Only the k chosen are ever copied: a rectified [tokens, d_sae] would double the memory of a step.
    values = torch.where(used.gather(-1, order), pre.gather(-1, indices), 0)
    return values, indices
