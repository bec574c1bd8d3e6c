"""An activation function of your own: what stands out from the rest of a token passes, less the rest."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from chronosae.parts import ACTIVATIONS, Activation, ActivationSpec, Codes, DenseCodes


@ACTIVATIONS.add
class Margin(ActivationSpec):
    """The k largest pre-activations of a token pass, by how much they exceed the next one (at least 0)."""

    kind: Literal["margin"] = "margin"
    k: PositiveInt = 8
    """Features active at each token."""

    def make(self, d_in: int, d_sae: int) -> Activation:
        return MarginActivation(self.k)


class MarginActivation(Activation):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Tensor, mask: Tensor | None, scale: Tensor | None, training: bool) -> Codes:
        values = (pre - pre.topk(self.k + 1).values[..., -1:].clamp(min=0)).relu()
        return DenseCodes(values if mask is None else values.masked_fill(~mask.unsqueeze(-1), 0), scale)
