"""From the linear encoder's product to pre-activations: feature kernel, encoder bias, position mask."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chronosae.autoencoders.layout import Layout, Past
from chronosae.autoencoders.parts.feature_kernels import LaggedKernel
from chronosae.autoencoders.parts.position_masks import PositionMask
from chronosae.kernels import Gate, Lookback


class Evidence(NamedTuple):
    """What turns `s = h W_enc` into what the activation function is given."""

    b_enc: Float[Tensor, " d_sae"]
    kernel: nn.Module | None
    position_mask: PositionMask | None
    layout: Layout | None
    training: bool

    @property
    def plain(self) -> bool:
        """Nothing but a bias."""
        return self.kernel is None and self.position_mask is None

    @property
    def sparse(self) -> bool:
        """The largest can be found, and learn, without all pre-activations: every part is one that kernels know."""
        known = self.kernel is None or isinstance(self.kernel, LaggedKernel)
        mask = self.position_mask
        return known and (mask is None or type(mask).forward is PositionMask.forward)

    def of_all(self, s: Float[Tensor, "*tokens d_sae"], past: Past | None = None) -> Float[Tensor, "*tokens d_sae"]:
        """Pre-activations of all features."""
        if self.kernel is not None:
            s = self.kernel(s, self._known_layout, past)
        pre = s + self.b_enc
        if self.position_mask is not None:
            pre = self.position_mask(pre, self._known_layout.positions, self.training)
        return pre

    def of_some(self, s: Float[Tensor, "*tokens m"], features: Int[Tensor, " m"]) -> Float[Tensor, "*tokens m"]:
        """Pre-activations of some features, from their part of `s`."""
        if self.kernel is not None:
            assert isinstance(self.kernel, LaggedKernel)
            s = self.kernel.of_some(s, features, self._known_layout)
        pre = s + self.b_enc[features]
        mask = self.position_mask
        if mask is None:
            return pre
        M = mask.weights()[:, features][mask.rows(self._known_layout.positions)]
        return mask.weigh(pre, M.to(pre.dtype), self.training)

    def at_slots(
        self, pre: Float[Tensor, "*tokens slots"], indices: Int[Tensor, "*tokens slots"]
    ) -> Float[Tensor, "*tokens slots"]:
        """What the position mask makes of the chosen features' values."""
        mask = self.position_mask
        if mask is None:
            return pre
        rows = mask.rows(self._known_layout.positions)
        return mask.weigh(pre, mask.at(rows.unsqueeze(-1), indices).to(pre.dtype), self.training)

    def lookback(self) -> Lookback:
        """Lags of the feature kernel; none without one."""
        if isinstance(self.kernel, LaggedKernel):
            return self.kernel.lookback(self._known_layout)
        nowhere = torch.zeros(0, self._known_layout.mask.numel(), dtype=torch.int64, device=self.b_enc.device)
        return Lookback(self.b_enc.new_zeros(0, len(self.b_enc)), (), nowhere)

    def gate(self) -> Gate | None:
        """The position mask as weights of the comparison."""
        mask = self.position_mask
        if mask is None:
            return None
        rows = mask.rows(self._known_layout.positions).flatten()
        if len(rows) < mask.cfg.context:
            weights, rows = mask.of_rows(rows).detach(), torch.arange(len(rows), device=rows.device)
        else:
            weights = mask.constant()
        return Gate(weights.to(self.b_enc.dtype), rows)

    @property
    def _known_layout(self) -> Layout:
        assert self.layout is not None, "parts that look at places refuse flat input"
        return self.layout
