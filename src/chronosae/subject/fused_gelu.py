"""GPT-2's GELU at the price of other activation functions.

transformers spells its tanh form out in eight passes over the widest tensor of the model, a fifth of the time of a
forward pass on a CPU. Here it is one pass, or none: oneDNN applies it while the product before it is in registers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D


class ConvGelu(Conv1D):
    """GPT-2's up-projection with the GELU that follows it; weights and their names are those of `Conv1D`."""

    def forward(self, x: Tensor) -> Tensor:
        """gelu(x weight + bias) by the tanh form."""
        if torch.is_grad_enabled() or not _fusible(x):
            return F.gelu(super().forward(x), approximate="tanh")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight.t(), self.bias, "gelu", [], "tanh")


def with_fused_gelu(model: nn.Module) -> Any:
    """The model, with every GELU of this kind replaced; what it computes differs by rounding only."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not NewGELUActivation:
                continue
            up = getattr(parent, "c_fc", None)
            if name == "act" and type(up) is Conv1D:
                up.__class__ = ConvGelu
                parent.act = nn.Identity()
            else:
                setattr(parent, name, nn.GELU(approximate="tanh"))
    return model


def _fusible(x: Tensor) -> bool:
    """Whether oneDNN has the product with the activation function for `x`."""
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if x.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32
