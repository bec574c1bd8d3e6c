"""What one forward pass of training leaves behind."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes
from chronosae.autoencoders.layout import Layout
from chronosae.autoencoders.pre_activations import Deferred


class Pass(NamedTuple):
    """One forward pass in the autoencoder's own (normalised) units: what objective terms are computed from."""

    target: Float[Tensor, "*tokens d_in"]
    source: Float[Tensor, "*tokens d_sae"] | Deferred
    """What `pre` comes from."""
    codes: Codes
    recon: Float[Tensor, "*tokens d_in"]
    mask: Bool[Tensor, "*tokens"]
    layout: Layout | None
    """None for flat input."""
    gram_energy: Float[Tensor, ""] | None = None
    """`||D^^T D^||_F^2` of the decoder's rows at norm 1, where decoding made it on the way."""

    @property
    def pre(self) -> Float[Tensor, "*tokens d_sae"]:
        """What the activation function was given, so after a position mask.

        Where TopK chose without computing them all, they are computed now: a product as large as the encoder's.
        """
        return self.source.dense if isinstance(self.source, Deferred) else self.source

    def pre_of(self, features: Int[Tensor, " m"]) -> Float[Tensor, "*tokens m"]:
        """The pre-activations of some features alone."""
        return self.source.of(features) if isinstance(self.source, Deferred) else self.source[..., features]
