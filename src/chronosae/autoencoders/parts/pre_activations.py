"""From vectors to pre-activations: of all features, of some, or of none where the activation can do without."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chronosae.autoencoders.codes import SparseCodes
from chronosae.autoencoders.parts.position_masks import PositionMask
from chronosae.autoencoders.parts.temporal import LaggedFeatureKernel
from chronosae.autoencoders.tokens import Tokens, zero_masked
from chronosae.kernels import Lookback, PositionWeights, centred_rows, no_lookback


@dataclass(eq=False)
class PreActivations:
    """What the activation function is given, computed when asked for.

    `s = h W_enc` of what the linear encoder reads, then feature kernel, bias and position mask.
    """

    tokens: Tokens
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_in"]
    kernel: nn.Module | None
    position_mask: PositionMask | None
    made: Float[Tensor, "*tokens d_in"] | None
    """What the encoder reads where a part made it (norm, mixer, corruption); None: just `target - b_dec`."""
    wanted: Int[Tensor, " m"] | None
    """Features whose pre-activations will be asked for."""
    _known: Float[Tensor, "n m"] | None = field(default=None, init=False)
    """`s` of `wanted`, at hand already, one row a token."""

    @property
    def plain(self) -> bool:
        """Nothing but a bias comes after the product."""
        return self.kernel is None and self.position_mask is None

    @property
    def sparse(self) -> bool:
        """The largest can be found, and learn, without all pre-activations: every part is one that kernels know."""
        known = self.kernel is None or (isinstance(self.kernel, LaggedFeatureKernel) and self.tokens.memory is None)
        return known and (self.position_mask is None or self.position_mask.by_entry)

    @cached_property
    def h(self) -> Float[Tensor, "*tokens d_in"]:
        """What the linear encoder reads, with its gradient."""
        return zero_masked(self.tokens.target - self.b_dec, self.tokens.mask) if self.made is None else self.made

    @property
    def centre(self) -> Float[Tensor, " d_in"] | None:
        """What kernels take as the centre of `rows`: the gradient to it is theirs to find."""
        return self.b_dec if self.made is None else None

    def rows(self) -> Float[Tensor, "n d_in"]:
        """`h`, one row a token; where there is a centre, without gradient."""
        if self.made is not None:
            return self.made.reshape(-1, self.made.shape[-1])
        target = self.tokens.target
        return centred_rows(target.reshape(-1, target.shape[-1]), self.b_dec, self.tokens.active)

    @cached_property
    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        """Those of all features."""
        s = self.h @ self.W_enc
        if self.kernel is not None:
            s = self.kernel(s, self.tokens.places, self.tokens.recall("kernel", s))
        pre = s + self.b_enc
        if self.position_mask is None:
            return pre
        return self.position_mask(pre, self.tokens.places.positions, self.tokens.training)

    def of(self, features: Int[Tensor, " m"]) -> Float[Tensor, "*tokens m"]:
        """Those of some features. What is at hand is given away the first time: it may be as large as the codes."""
        s = self._known
        if s is None or self.wanted is None or not torch.equal(features, self.wanted):
            return self._after_product(self.h @ self.W_enc[:, features], features)
        self._known, shape = None, (*self.tokens.target.shape[:-1], len(features))
        bias = self.b_enc[features]
        if self.plain and s.dtype == bias.dtype:
            # Nobody else has it, and no gradient needs it.
            return s.add_(bias).view(shape)
        return self._after_product(s.view(shape), features)

    def _after_product(self, s: Tensor, features: Tensor) -> Float[Tensor, "*tokens m"]:
        if self.kernel is not None:
            assert isinstance(self.kernel, LaggedFeatureKernel)
            s = self.kernel.of_some(s, features, self.tokens.places)
        pre, mask = s + self.b_enc[features], self.position_mask
        if mask is None:
            return pre
        M = mask.weights()[:, features][mask.rows(self.tokens.places.positions)]
        return mask.weigh(pre, M.to(pre.dtype), self.tokens.training)

    def lookback(self) -> Lookback:
        """Lags of the feature kernel, as the sparse step takes them; none without one."""
        if isinstance(self.kernel, LaggedFeatureKernel):
            return self.kernel.lookback(self.tokens.places)
        return no_lookback(self.tokens.target.shape[:-1].numel(), self.b_enc)

    def position_weights(self) -> PositionWeights | None:
        """The position mask, as the sparse step takes it."""
        mask = self.position_mask
        if mask is None:
            return None
        rows = mask.rows(self.tokens.places.positions).flatten()
        if len(rows) < mask.cfg.context:
            weights, rows = mask.of_rows(rows).detach(), torch.arange(len(rows), device=rows.device)
        else:
            weights = mask.constant()
        return PositionWeights(weights.to(self.b_enc.dtype), rows)

    def chosen(self, values: Tensor, indices: Tensor, known: Tensor | None) -> SparseCodes:
        """The codes of what a kernel chose, one row a token; `known`: `s` of `wanted`, which it met on the way."""
        self._known, shape = known, (*self.tokens.target.shape[:-1], values.shape[1])
        values, indices, mask = values.view(shape), indices.view(shape), self.position_mask
        if mask is not None:
            rows = mask.rows(self.tokens.places.positions).unsqueeze(-1)
            values = mask.weigh(values, mask.at(rows, indices).to(values.dtype), self.tokens.training)
        return SparseCodes(values, self.tokens.scale, indices, self.W_enc.shape[1])
