"""Sparsity penalties: L1 on codes or gates, L0 through learned thresholds; and what else trains a gated autoencoder."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from chronosae.autoencoders import Activation, DenseCodes, JumpReLUActivation, Pass, PredictiveCodes
from chronosae.autoencoders.parts.terms import TERMS
from chronosae.objectives.term import SteeredTerm, StepContext, Term, masked_mean


@TERMS.add
class L1Term(SteeredTerm):
    """`weight * mean_t sum_f |z_tf| (||W_dec_f|| if decoder_weighted)`; weight steered when `target_l0` is given."""

    kind: Literal["l1"] = "l1"
    decoder_weighted: bool = False
    """Weigh each feature by its decoder norm, which is then free (Conerly et al. 2024)."""

    @property
    def one_row_a_feature(self) -> bool:
        return self.decoder_weighted

    def check_spec(self, spec: Any) -> None:
        if self.decoder_weighted and spec.activation.kind not in ("relu", "jump_relu", "gated"):
            raise ValueError(
                f"the decoder-weighted l1 term needs a code for every feature; {spec.activation.kind} gives a choice"
            )

    def value(self, step: StepContext) -> Tensor:
        return l1_penalty(step.forward, step.sae.W_dec, decoder_weighted=self.decoder_weighted)


def l1_penalty(step: Pass, W_dec: Float[Tensor, "d_sae d_in"], *, decoder_weighted: bool = False) -> Float[Tensor, ""]:
    """`mean_t sum_f |z_tf|`, each feature times `||W_dec_f||` when `decoder_weighted` (Conerly et al. 2024).

    The weighted form can't be lowered by shrinking codes and growing the decoder, so the decoder may stay free.
    """
    if not decoder_weighted:
        return masked_mean(step.codes.values.abs().sum(-1), step.mask)
    if not isinstance(step.codes, DenseCodes):
        raise TypeError("the decoder-weighted L1 penalty needs dense codes, one value a feature")
    return masked_mean(step.codes.values.abs() @ W_dec.norm(dim=1), step.mask)


@TERMS.add
class L0Term(SteeredTerm):
    """`weight * mean_t ||z_t||_0` through the straight-through estimate of `jump_relu` (arXiv 2407.14435)."""

    kind: Literal["l0"] = "l0"

    def check_spec(self, spec: Any) -> None:
        if spec.activation.kind != "jump_relu":
            raise ValueError("the l0 term needs the thresholds of the jump_relu activation")

    def value(self, step: StepContext) -> Tensor:
        return l0_penalty(step.forward, step.sae.activation)


def l0_penalty(step: Pass, activation: Activation) -> Float[Tensor, ""]:
    """`mean_t ||z_t||_0`, its gradient to the thresholds through a rectangle (arXiv 2407.14435, section 4)."""
    if not isinstance(activation, JumpReLUActivation):
        raise TypeError("the L0 penalty needs the thresholds of jump_relu")
    return masked_mean(activation.steps(step.pre).sum(-1), step.mask)


# The two terms that train a gated autoencoder's gates (Rajamanoharan et al. 2024, arXiv 2404.16014, equation 8).


@TERMS.add
class GateL1Term(SteeredTerm):
    """`weight * mean_t sum_f relu(pre_tf)`: sparsity of the gates of `gated` (arXiv 2404.16014, equation 8)."""

    kind: Literal["gate_l1"] = "gate_l1"

    def value(self, step: StepContext) -> Tensor:
        return gate_l1(step.forward)


def gate_l1(step: Pass) -> Float[Tensor, ""]:
    """`mean_t sum_f relu(pre_tf)`: the decoder's rows have norm 1."""
    return masked_mean(torch.relu(step.pre).sum(-1), step.mask)


@TERMS.add
class GateAuxTerm(Term):
    """`weight * mean_t ||x - relu(pre) W_dec - b_dec||^2`, the decoder frozen: gates learn from it (same equation)."""

    kind: Literal["gate_aux"] = "gate_aux"

    @property
    def one_row_a_feature(self) -> bool:
        return True

    def value(self, step: StepContext) -> Tensor:
        return gate_error(step.forward, step.sae.W_dec, step.sae.b_dec)


def gate_error(step: Pass, W_dec: Float[Tensor, "d_sae d_in"], b_dec: Float[Tensor, " d_in"]) -> Float[Tensor, ""]:
    """`mean_t ||x_t - relu(pre_t) W_dec - b_dec||^2`, with the decoder frozen: only gates learn from it."""
    recon = torch.relu(step.pre) @ W_dec.detach() + b_dec.detach()
    return masked_mean((step.target - recon).pow(2).sum(-1), step.mask)


@TERMS.add
class NovelL1Term(Term):
    """`weight * mean_t sum_f |z_n,tf|`: L1 on the novel codes of the predictive body alone (arXiv 2511.01836)."""

    kind: Literal["novel_l1"] = "novel_l1"

    def check_spec(self, spec: Any) -> None:
        if spec.body.kind != "predictive":
            raise ValueError("the novel_l1 term needs novel codes: the preset tfa")

    def value(self, step: StepContext) -> Tensor:
        codes = step.forward.codes
        if not isinstance(codes, PredictiveCodes):
            raise ValueError(f"the novel_l1 term needs the predictive body; a {step.sae.cfg.preset} has no novel codes")
        return l1_penalty(step.forward._replace(codes=codes.novel), step.sae.W_dec)
