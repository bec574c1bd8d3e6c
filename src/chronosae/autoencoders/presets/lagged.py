"""Codes as a linear process with sparse innovations (Song et al. 2025, arXiv 2509.23323).

The paper's objective has no other sparsity than the L1 norm of the innovations, so codes are ReLU by default; with `k`
they are TopK, and any other activation function fits.
"""

from typing import Annotated

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.activations import ReLU, TopK
from chronosae.autoencoders.parts.lagged import LaggedTerm
from chronosae.autoencoders.presets.base import PartsOptions, Positive, Preset, assemble
from chronosae.autoencoders.spec import Normalisation, Spec


class LaggedOptions(PartsOptions):
    """Options of `lagged`."""

    k: Positive | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Features active at each token (TopK); null: ReLU, as in the paper."""

    lags: Positive = 4
    """Earlier tokens that act on a token."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the L1 norm of the innovations; the start value when `target_l0` is set."""
    beta: Annotated[float, Field(ge=0)] = 1e-2
    """Weight of the L1 norms of B and M; too small, and M explains codes by one another while they grow dense."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Steer alpha (beta with it) until this many features are active a token."""
    entries: Positive = 32
    """Above 4,096 features: pairs (source, lag) that each target has a weight for."""
    sample_tokens: Positive | None = 256
    """Target tokens a step; null: all."""

    @model_validator(mode="after")
    def _k_fits(self) -> "LaggedOptions":
        if self.k is not None and self.k > self.d_sae:
            raise ValueError(f"k ({self.k}) must be at most d_sae ({self.d_sae})")
        return self


def _make(options: LaggedOptions, d_in: int, normalisation: Normalisation) -> Spec:
    if options.target_l0 is not None and options.target_l0 > options.d_sae:
        raise ValueError(f"target_l0 ({options.target_l0}) must be at most d_sae ({options.d_sae})")
    activation = options.activation or (ReLU() if options.k is None else TopK(k=options.k))
    if options.target_l0 is not None and hasattr(activation, "k"):
        raise ValueError(f"target_l0 has nothing to steer: {activation.kind} fixes the active features itself")
    term = LaggedTerm(
        weight=options.alpha,
        beta=options.beta,
        lags=options.lags,
        target_l0=options.target_l0,
        entries=options.entries,
        sample_tokens=options.sample_tokens,
    )
    options = options.model_copy(update={"activation": activation})
    return assemble("lagged", options, d_in, normalisation, terms=[term])


PRESET = Preset(
    name="lagged",
    summary="ReLU codes explained by earlier and simultaneous codes, L1 on what stays unexplained",
    paper="arXiv 2509.23323",
    options=LaggedOptions,
    make=_make,
)
