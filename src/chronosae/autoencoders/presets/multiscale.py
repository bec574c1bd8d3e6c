"""Multi-scale: dilated depthwise convolutions along the context, before or after the encoder (DESIGN 5.A)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.corruptions import Gaussian
from chronosae.autoencoders.parts.feature_kernels import FeatureConv
from chronosae.autoencoders.parts.mixers import InputConv
from chronosae.autoencoders.parts.terms import CodeSeparationTerm, CosineTerm, OrthogonalityTerm
from chronosae.autoencoders.presets.base import PartsOptions, Positive, Preset, assemble
from chronosae.autoencoders.spec import Normalisation, Spec

Weight = Annotated[float, Field(ge=0)]


class MultiscaleOptions(PartsOptions):
    """Options of `multiscale`."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {**PartsOptions.replaces, "corruption": ("denoise",)}

    placement: Literal["feature", "input"] = "feature"
    """`feature`: every feature has its own kernel over its pre-activations; `input`: kernels over input dimensions."""
    rates: list[int] = Field(default=[1, 2, 4])
    """Dilations: a tap looks back 1, 2, ... times each."""
    kernel_size: Positive = 3
    """Taps of each dilation."""
    rank: Positive | None = None
    """`input`: rank of the projection back to d_in; full when absent."""
    centered: bool = False
    """`input`: look ahead as far as back (analysis only: such an autoencoder can't stream)."""
    depthwise: bool = True
    """`input`: False lets every channel see every other (analysis only)."""
    denoise: bool | None = None
    """Train on inputs with Gaussian noise of level 0.7 and clean targets. When absent: with `input` placement, which
    gains nothing without it. `corruption` sets another one."""
    cosine_weight: Weight = 0.1
    """Weight of cosine separation between decoder rows."""
    orthogonality_weight: Weight = 0.0
    """Weight of the orthogonality of decoder rows (the original logs: 0.01)."""
    code_separation_weight: Weight = 0.0
    """Weight of the separation of co-active features."""

    @model_validator(mode="after")
    def _placement_fits(self) -> "MultiscaleOptions":
        if self.placement == "feature" and (self.rank is not None or self.centered or not self.depthwise):
            raise ValueError("rank, centered and depthwise need placement: input")
        part = "kernel" if self.placement == "feature" else "mixer"
        given = sorted({"rates", "kernel_size"} & self.model_fields_set)
        if getattr(self, part) is not None and given:
            raise ValueError(f"{given[0]} means nothing beside {part}, which replaces it; leave one out")
        return self


def _make(options: MultiscaleOptions, d_in: int, normalisation: Normalisation) -> Spec:
    at_input = options.placement == "input"
    mixer = InputConv(
        rates=options.rates,
        kernel_size=options.kernel_size,
        rank=options.rank,
        centered=options.centered,
        depthwise=options.depthwise,
    )
    noisy = at_input if options.denoise is None else options.denoise
    weights = {
        CosineTerm: options.cosine_weight,
        OrthogonalityTerm: options.orthogonality_weight,
        CodeSeparationTerm: options.code_separation_weight,
    }
    return assemble(
        "multiscale",
        options,
        d_in,
        normalisation,
        terms=[term(weight=weight) for term, weight in weights.items() if weight],
        mixer=mixer if at_input else None,
        kernel=None if at_input else FeatureConv(rates=options.rates, kernel_size=options.kernel_size),
        corruption=options.corruption or (Gaussian() if noisy else None),
    )


PRESET = Preset(
    name="multiscale",
    summary="dilated convolutions along the context, of features or of inputs; cosine separation",
    paper="this project",
    options=MultiscaleOptions,
    make=_make,
)
