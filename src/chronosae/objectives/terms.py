"""What each objective term computes: a table from its spec to a function, which a term of your own joins."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jaxtyping import Bool
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Draws, Pass
from chronosae.autoencoders.parts import terms as specs
from chronosae.objectives.auxk import auxk_error
from chronosae.objectives.gated import gate_error, gate_l1
from chronosae.objectives.l1 import l0_penalty, l1_penalty
from chronosae.objectives.nested import nested_error
from chronosae.objectives.next_token import next_token_error


@dataclass(frozen=True)
class StepContext:
    """All that a term may look at: one step of one autoencoder."""

    sae: Autoencoder
    forward: Pass
    dead: Bool[Tensor, " d_sae"]
    """Features that haven't fired for long."""
    draws: Draws
    """The step's randomness."""
    trackers: dict[str, Any] = field(default_factory=dict)
    """State that watches training, by kind."""


T = TypeVar("T", bound=specs.TermSpec)
_FUNCTIONS: dict[type, Callable[[Any, StepContext], Tensor | None]] = {}


def computes(
    spec: type[T],
) -> Callable[[Callable[[T, StepContext], Tensor | None]], Callable[[T, StepContext], Tensor | None]]:
    """Decorator: the function is the value of terms of type `spec`, before its weight; None where it doesn't apply."""

    def register(function: Callable[[T, StepContext], Tensor | None]) -> Callable[[T, StepContext], Tensor | None]:
        _FUNCTIONS[spec] = function
        return function

    return register


def term_value(term: specs.TermSpec, step: StepContext) -> Tensor | None:
    """The term's value, without its weight.

    Raises:
        ValueError: no function computes this type of term.
    """
    if type(term) not in _FUNCTIONS:
        raise ValueError(
            f"nothing computes the term {term.kind!r}; decorate a function with @computes({type(term).__name__})"
        )
    return _FUNCTIONS[type(term)](term, step)


@computes(specs.L1Term)
def _l1(term: specs.L1Term, step: StepContext) -> Tensor:
    return l1_penalty(step.forward, step.sae.W_dec, decoder_weighted=term.decoder_weighted)


@computes(specs.L0Term)
def _l0(term: specs.L0Term, step: StepContext) -> Tensor:
    return l0_penalty(step.forward, step.sae.activation)


@computes(specs.GateL1Term)
def _gate_l1(term: specs.GateL1Term, step: StepContext) -> Tensor:
    return gate_l1(step.forward)


@computes(specs.GateAuxTerm)
def _gate_aux(term: specs.GateAuxTerm, step: StepContext) -> Tensor:
    return gate_error(step.forward, step.sae.W_dec, step.sae.b_dec)


@computes(specs.AuxKTerm)
def _auxk(term: specs.AuxKTerm, step: StepContext) -> Tensor | None:
    return auxk_error(step.forward, step.sae.W_dec, step.dead, term.k_aux)


@computes(specs.NestedTerm)
def _nested(term: specs.NestedTerm, step: StepContext) -> Tensor:
    weights = term.weights or [1.0] * len(term.prefixes)
    return nested_error(step.forward, step.sae.W_dec, step.sae.b_dec, term.prefixes, weights)


@computes(specs.NextTokenTerm)
def _next_token(term: specs.NextTokenTerm, step: StepContext) -> Tensor:
    head = step.sae.heads["next_token"]
    assert isinstance(head, specs.NextTokenHead)
    return next_token_error(step.forward, head.W_next, head.b_next)
