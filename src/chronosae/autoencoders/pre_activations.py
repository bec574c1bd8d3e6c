"""Pre-activations that nobody computed, because the activation function chose among them without."""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes, SparseCodes
from chronosae.autoencoders.evidence import Evidence
from chronosae.autoencoders.layout import zero_masked
from chronosae.kernels import centred_rows


class Inputs:
    """What the linear encoder reads, any function of the activations."""

    centre: Tensor | None = None

    def __init__(self, h: Float[Tensor, "*tokens d_in"]) -> None:
        self.h = h

    @property
    def tokens(self) -> torch.Size:
        """The leading axes."""
        return self.h.shape[:-1]

    def rows(self) -> Float[Tensor, "n d_in"]:
        """One row a token, with gradient."""
        return self.h.reshape(-1, self.h.shape[-1])


class CentredInputs(Inputs):
    """`target - b_dec`, zero at masked tokens: what it depends on is b_dec alone."""

    def __init__(
        self, target: Float[Tensor, "*tokens d_in"], b_dec: Float[Tensor, " d_in"], mask: Bool[Tensor, "*tokens"] | None
    ) -> None:
        self.target, self.b_dec, self.centre, self.mask = target, b_dec, b_dec, mask

    @cached_property
    def h(self) -> Float[Tensor, "*tokens d_in"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The inputs, with their gradient to b_dec."""
        return zero_masked(self.target - self.b_dec, self.mask)

    @property
    def tokens(self) -> torch.Size:
        return self.target.shape[:-1]

    def rows(self) -> Float[Tensor, "n d_in"]:
        """One row a token; a kernel that knows the centre needs no gradient here."""
        flat, mask = self.target.reshape(-1, self.target.shape[-1]), self.mask
        return centred_rows(flat, self.b_dec, None if mask is None else mask.reshape(-1))


class LinearEncoder(NamedTuple):
    """`h W_enc` and what follows it, not computed yet."""

    inputs: Inputs
    W_enc: Float[Tensor, "d_in d_sae"]
    evidence: Evidence
    wanted: Int[Tensor, " m"] | None
    """Features whose pre-activations will be asked for."""

    def codes(
        self, chosen: tuple[Tensor, Tensor, Tensor | None], scale: Float[Tensor, "*tokens"] | None
    ) -> "tuple[Deferred, Codes]":
        """What a kernel chose (values, indices, and `h W_enc` of `wanted`), one row a token."""
        shape, (values, indices, known) = self.inputs.tokens, chosen
        slots = values.shape[1]
        values, indices = values.view(*shape, slots), indices.view(*shape, slots)
        codes = SparseCodes(self.evidence.at_slots(values, indices), scale, indices, self.W_enc.shape[1])
        return Deferred(self, known), codes


class Deferred:
    """Pre-activations computed when asked for.

    Arguments:
        encoder: what makes them.
        known: `h W_enc` of `encoder.wanted`, at hand already, one row a token.
    """

    def __init__(self, encoder: LinearEncoder, known: Float[Tensor, "n m"] | None) -> None:
        self.encoder, self.known = encoder, known

    @cached_property
    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        """Those of all features."""
        return self.encoder.evidence.of_all(self.encoder.inputs.h @ self.encoder.W_enc)

    def of(self, features: Int[Tensor, " m"]) -> Float[Tensor, "*tokens m"]:
        """Those of some features. What is at hand is given away the first time: it may be as large as the codes."""
        encoder, s = self.encoder, self.known
        if s is None or encoder.wanted is None or not torch.equal(features, encoder.wanted):
            return encoder.evidence.of_some(encoder.inputs.h @ encoder.W_enc[:, features], features)
        self.known, shape = None, (*encoder.inputs.tokens, len(features))
        bias = encoder.evidence.b_enc[features]
        if encoder.evidence.plain and s.dtype == bias.dtype:
            # Nobody else has it, and no gradient needs it.
            return s.add_(bias).view(shape)
        return encoder.evidence.of_some(s.view(shape), features)
