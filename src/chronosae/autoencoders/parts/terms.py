"""Objective terms as data: which penalties and predictions are added to the reconstruction error.

What a term computes is a function in `objectives`; weights that only a term needs (a predictor, say) are its `head`,
which the autoencoder carries so that they train, save and move with it.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from chronosae.autoencoders.parts.base import PartSpec, Positive, Registry

TERMS: Registry["TermSpec"] = Registry("term")
Weight = Annotated[float, Field(gt=0)]


class TermSpec(PartSpec):
    """Base of the terms."""

    per_energy: ClassVar[bool] = False
    """The term has no units: its weight is a share of an input's mean energy, d_in in normalised units."""
    weight: Weight = 1.0
    """Weight of the term beside the reconstruction error (sum over d_in, mean over tokens)."""
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps over which the weight rises linearly from zero."""

    def check_spec(self, spec: Any) -> None:
        """ValueError when the rest of the autoencoder's spec can't go with this term."""

    def make_head(self, d_in: int, d_sae: int) -> nn.Module | None:
        """Weights of the term's own, if it has any."""
        return None


class SteeredTerm(TermSpec):
    """A sparsity penalty whose weight warms up and may be steered towards a number of active features."""

    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: float | None = Field(default=None, gt=0)
    """Steer the weight until this many features are active a token."""


@TERMS.add
class L1Term(SteeredTerm):
    """`weight * mean_t sum_f |z_tf| (||W_dec_f|| if decoder_weighted)`; weight steered when `target_l0` is given."""

    kind: Literal["l1"] = "l1"
    decoder_weighted: bool = False
    """Weigh each feature by its decoder norm, which is then free (Conerly et al. 2024)."""

    def check_spec(self, spec: Any) -> None:
        if self.decoder_weighted and spec.activation.kind not in ("relu", "jump_relu", "gated"):
            raise ValueError(
                f"the decoder-weighted l1 term needs a code for every feature; {spec.activation.kind} gives a choice"
            )


@TERMS.add
class L0Term(SteeredTerm):
    """`weight * mean_t ||z_t||_0` through the straight-through estimate of `jump_relu` (arXiv 2407.14435)."""

    kind: Literal["l0"] = "l0"

    def check_spec(self, spec: Any) -> None:
        if spec.activation.kind != "jump_relu":
            raise ValueError("the l0 term needs the thresholds of the jump_relu activation")


@TERMS.add
class GateL1Term(SteeredTerm):
    """`weight * mean_t sum_f relu(pre_tf)`: sparsity of the gates of `gated` (arXiv 2404.16014, equation 8)."""

    kind: Literal["gate_l1"] = "gate_l1"


@TERMS.add
class GateAuxTerm(TermSpec):
    """`weight * mean_t ||x - relu(pre) W_dec - b_dec||^2`, the decoder frozen: gates learn from it (same equation)."""

    kind: Literal["gate_aux"] = "gate_aux"


@TERMS.add
class AuxKTerm(TermSpec):
    """`weight * ||e - e_hat||^2`: the k_aux strongest dead features reconstruct the error e (arXiv 2406.04093, A.2)."""

    kind: Literal["auxk"] = "auxk"
    weight: Weight = 1 / 32
    k_aux: Positive
    """Dead features that take part at each token."""


@TERMS.add
class NestedTerm(TermSpec):
    """`weight * sum_i w_i ||x - z[:m_i] W_dec[:m_i] - b_dec||^2`: the first m_i features must do alone.

    The Matryoshka objective (Bussmann et al. 2025, arXiv 2503.17547); the whole dictionary's own error is the
    reconstruction error, weighted by the autoencoder's `reconstruction_weight`.
    """

    kind: Literal["nested"] = "nested"
    prefixes: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1)
    """Shares of the dictionary, ascending; the whole is not named."""
    weights: list[Annotated[float, Field(ge=0)]] | None = None
    """One a prefix; 1 each when absent."""

    def model_post_init(self, context: object) -> None:
        if sorted(set(self.prefixes)) != self.prefixes:
            raise ValueError(f"prefixes must ascend, got {self.prefixes}")
        if self.weights is not None and len(self.weights) != len(self.prefixes):
            raise ValueError(f"{len(self.prefixes)} prefixes need as many weights, got {len(self.weights)}")


@TERMS.add
class CosineTerm(TermSpec):
    """`(||D^^T D^||_F^2 - F) / (F (F - 1))`: mean squared cosine between decoder rows (DESIGN 5.A)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["cosine"] = "cosine"
    weight: Weight = 0.1


@TERMS.add
class OrthogonalityTerm(TermSpec):
    """`||D D^T - I||_F^2`, without the F x F product (DESIGN 5.A)."""

    kind: Literal["orthogonality"] = "orthogonality"
    weight: Weight = 0.01


@TERMS.add
class CodeSeparationTerm(TermSpec):
    """Mean squared cosine between the activations of co-active features over a batch (DESIGN 5.A)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["code_separation"] = "code_separation"
    weight: Weight = 0.1


@TERMS.add
class ConsistencyTerm(TermSpec):
    """Scale-free variance of each feature inside windows of w tokens (DESIGN 5.B)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["consistency"] = "consistency"
    weight: Weight = 0.1
    window: int = Field(default=8, ge=2)
    """Consecutive unmasked tokens of one document in a window; one has no variance."""
    by_persistence: bool = False
    """Multiply each feature's share by P(it fires | it fired a token before): what never persists is left alone."""


@TERMS.add
class CrossPositionTerm(TermSpec):
    """Variance over positions of each feature's mean activation, corrected for sampling noise (DESIGN 5.B)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["cross_position"] = "cross_position"
    weight: Weight = 0.1


@TERMS.add
class ContrastiveTerm(TermSpec):
    """T-SAE's contrast between the first features of a token and of an earlier one (arXiv 2511.05541)."""

    per_energy: ClassVar[bool] = True
    kind: Literal["contrastive"] = "contrastive"
    weight: Weight = 0.1
    form: Literal["release", "paper"] = "release"
    """`release`: raw dot products (the published code); `paper`: cosine over `temperature`."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the `paper` form."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the dictionary that is contrasted: its first features."""
    pair: Literal["previous", "random"] = "previous"
    """The earlier token: the one before, or any earlier one of the same document."""


@TERMS.add
class NextTokenTerm(TermSpec):
    """`weight * mean_t ||x_{t+1} - z_t W_next - b_next||^2` within a document: codes should also foretell."""

    kind: Literal["next_token"] = "next_token"
    weight: Weight = 0.1

    def make_head(self, d_in: int, d_sae: int) -> nn.Module | None:
        return NextTokenHead(d_in, d_sae)


@TERMS.add
class WindowTerm(TermSpec):
    """Mean squared error of the earlier slices that a crosscoder's codes also decode to."""

    kind: Literal["window"] = "window"

    def check_spec(self, spec: Any) -> None:
        if spec.body.kind != "crosscoder":
            raise ValueError("the window term needs codes that decode to a window: the presets txc and stacked")


@TERMS.add
class NovelL1Term(TermSpec):
    """`weight * mean_t sum_f |z_n,tf|`: L1 on the novel codes of the predictive body alone (arXiv 2511.01836)."""

    kind: Literal["novel_l1"] = "novel_l1"

    def check_spec(self, spec: Any) -> None:
        if spec.body.kind != "predictive":
            raise ValueError("the novel_l1 term needs novel codes: the preset tfa")


class NextTokenHead(nn.Module):
    """A second decoder, from codes to the next token's vector; it starts at zero."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.W_next = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_next = nn.Parameter(torch.zeros(d_in))
