"""Pre-activations that nobody computed, because the activation function chose among them without."""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders.codes import Codes, SparseCodes
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
    """`h W_enc + b_enc`, not computed yet."""

    inputs: Inputs
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    wanted: Int[Tensor, " m"] | None
    """Features whose pre-activations will be asked for."""

    def codes(
        self, chosen: tuple[Tensor, Tensor, Tensor | None], scale: Float[Tensor, "*tokens"] | None
    ) -> "tuple[Deferred, Codes]":
        """What a kernel chose (values, indices, and the pre-activations of `wanted`), one row a token."""
        shape, (values, indices, known) = self.inputs.tokens, chosen
        slots = values.shape[1]
        codes = SparseCodes(values.view(*shape, slots), scale, indices.view(*shape, slots), len(self.b_enc))
        return Deferred(self, None if known is None else known.view(*shape, known.shape[1])), codes


class Deferred:
    """Pre-activations computed when asked for.

    Arguments:
        encoder: what makes them.
        known: those of `encoder.wanted`, at hand already.
    """

    def __init__(self, encoder: LinearEncoder, known: Float[Tensor, "*tokens m"] | None) -> None:
        self.encoder, self.known = encoder, known

    @cached_property
    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        """Those of all features."""
        return self.encoder.inputs.h @ self.encoder.W_enc + self.encoder.b_enc

    def of(self, features: Int[Tensor, " m"]) -> Float[Tensor, "*tokens m"]:
        """Those of some features."""
        wanted = self.encoder.wanted
        if self.known is not None and wanted is not None and torch.equal(features, wanted):
            return self.known
        return self.encoder.inputs.h @ self.encoder.W_enc[:, features] + self.encoder.b_enc[features]
