"""What a term is, what it may look at of one training step, and the error that every step begins with."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders import Autoencoder, Draws, Layout, Pass
from chronosae.autoencoders.parts.terms import TermSpec
from chronosae.kernels import squared_error


@dataclass(frozen=True)
class StepContext:
    """All that a term or a tracker may look at: one step of one autoencoder."""

    sae: Autoencoder
    forward: Pass
    dead: Bool[Tensor, " d_sae"]
    """Features that haven't fired for long."""
    draws: Draws
    """The step's randomness."""
    trackers: dict[str, Any] = field(default_factory=dict)
    """State that watches training, by kind."""
    progress: float = 0.0
    """Share of the training that lies behind."""

    def head(self, kind: str) -> nn.Module | None:
        """The weights that the term of this kind made for itself, if the autoencoder has it."""
        return dict(self.sae.heads.items()).get(kind)

    def layout(self, what: str) -> Layout:
        """Mask, positions and documents.

        Raises:
            ValueError: flat input, where no token has a neighbour; the line says that `what` needs them.
        """
        if self.forward.layout is None:
            raise ValueError(f"the {what} looks at neighbours, so it needs activations [batch, pos, d_in]")
        return self.forward.layout

    def documents(self, what: str) -> tuple[Layout, Int[Tensor, "batch pos"]]:
        """Layout, and the document of each token (one a sequence when none are named). Raises as `layout`."""
        layout = self.layout(what)
        return layout, torch.zeros_like(layout.positions) if layout.doc_ids is None else layout.doc_ids


def masked_mean(values: Float[Tensor, "*tokens"], mask: Bool[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    """Mean over tokens whose mask is True; 0 when there are none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def reconstruction_error(step: Pass) -> Float[Tensor, ""]:
    """`mean_t ||x_t - x_hat_t||^2`, summed over d_in, mean over unmasked tokens."""
    return mean_squared_error(step.target, step.recon, step.mask)


def mean_squared_error(
    target: Float[Tensor, "*tokens d"], estimate: Float[Tensor, "*tokens d"], mask: Bool[Tensor, "*tokens"]
) -> Float[Tensor, ""]:
    """`mean_t ||target_t - estimate_t||^2` over unmasked tokens; 0 when there are none."""
    return squared_error(target, estimate, mask) / mask.sum().clamp_min(1)


class Term(TermSpec):
    """Base of the terms that come with their formula."""

    def value(self, step: StepContext) -> Float[Tensor, ""] | None:
        """The term at this step, before its weight; None where it doesn't apply."""
        raise NotImplementedError


class SteeredTerm(Term):
    """A sparsity penalty whose weight warms up and may be steered towards a number of active features."""

    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the weight rises linearly from zero."""
    target_l0: float | None = Field(default=None, gt=0)
    """Steer the weight until this many features are active a token."""

    @property
    def is_penalty(self) -> bool:
        return True

    @property
    def steered_to(self) -> float | None:
        return self.target_l0


def term_value(term: TermSpec, step: StepContext) -> Float[Tensor, ""] | None:
    """The term's value, without its weight; terms without units are multiplied by d_in (see `TermSpec.per_energy`).

    Raises:
        ValueError: the term says nothing of what it computes.
    """
    if not isinstance(term, Term):
        raise ValueError(f"nothing computes the term {term.kind!r}; derive {type(term).__name__} from objectives.Term")
    value = term.value(step)
    return value * step.sae.d_in if value is not None and term.per_energy else value
