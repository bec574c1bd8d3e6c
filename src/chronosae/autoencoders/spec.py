"""What an autoencoder is made of, as data: the part of `cfg.json` that decides what it computes and how it is trained.

Each part is a small pydantic model with a `kind`; parts combine freely. A preset is a function that makes one `Spec`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chronosae.config import Section

Positive = Annotated[int, Field(gt=0)]


class Normalisation(Section):
    """What is done to an input vector before anything else (section 4 of the design)."""

    kind: Literal["dataset", "token", "none"] = "none"
    """`dataset`: multiply by `factor`; `token`: bring each vector's norm to sqrt(d_in); `none`."""
    factor: float = Field(default=1.0, gt=0)
    """`dataset`: sqrt(d_in) / mean norm, measured on the training activations."""


class ReLU(Section):
    """Every positive pre-activation passes."""

    kind: Literal["relu"] = "relu"


class TopK(Section):
    """The k largest positive pre-activations of a token pass (Gao et al. 2024, arXiv 2406.04093)."""

    kind: Literal["topk"] = "topk"
    k: Positive


ActivationSpec = Annotated[ReLU | TopK, Field(discriminator="kind")]


class L1Term(Section):
    """`weight * mean_t sum_f |z_tf| (||W_dec_f|| if decoder_weighted)`; weight steered when `target_l0` is given."""

    kind: Literal["l1"] = "l1"
    weight: float = Field(default=1.0, gt=0)
    """Weight of the penalty, the start value when steered. In units where mean ||x|| is sqrt(d_in)."""
    decoder_weighted: bool = False
    """Weigh each feature by its decoder norm, which is then free (Conerly et al. 2024)."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: float | None = Field(default=None, gt=0)
    """Steer the weight until this many features are active a token."""


class AuxKTerm(Section):
    """`weight * ||e - e_hat||^2`: the k_aux strongest dead features reconstruct the error e (arXiv 2406.04093, A.2)."""

    kind: Literal["auxk"] = "auxk"
    weight: float = Field(default=1 / 32, gt=0)
    """Weight of the term."""
    k_aux: Positive
    """Dead features that take part at each token."""


TermSpec = Annotated[L1Term | AuxKTerm, Field(discriminator="kind")]


class Spec(Section):
    """A whole autoencoder."""

    preset: str
    """The preset it was made from."""
    d_in: Positive
    """Width at the site."""
    d_sae: Positive
    """Number of features."""
    normalisation: Normalisation = Normalisation()
    activation: ActivationSpec
    decoder: Literal["unit_norm", "free"] = "unit_norm"
    """`unit_norm`: rows of W_dec stay at norm 1, gradients are projected onto the sphere."""
    terms: list[TermSpec] = Field(default_factory=list)
    """Objective terms beside the reconstruction error."""
    resample_every: Annotated[int, Field(ge=0)] = 0
    """Steps between re-initialisations of dead features (Bricken et al. 2023); 0 is never."""

    @model_validator(mode="after")
    def _k_fits(self) -> "Spec":
        if isinstance(self.activation, TopK) and self.activation.k > self.d_sae:
            raise ValueError(f"k ({self.activation.k}) must be at most d_sae ({self.d_sae})")
        return self
