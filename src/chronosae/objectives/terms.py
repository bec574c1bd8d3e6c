"""What each objective term computes: a table from its spec to a function, which a term of your own joins."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Draws, Pass
from chronosae.autoencoders.crosscoder import Crosscoder
from chronosae.autoencoders.layout import Layout
from chronosae.autoencoders.parts import terms as specs
from chronosae.autoencoders.predictive import PredictiveCodes
from chronosae.objectives.auxk import auxk_error
from chronosae.objectives.consistency import consistency_error
from chronosae.objectives.contrastive import contrastive_error
from chronosae.objectives.cross_position import cross_position_error
from chronosae.objectives.gated import gate_error, gate_l1
from chronosae.objectives.l1 import l0_penalty, l1_penalty
from chronosae.objectives.nested import nested_error, prefix_size
from chronosae.objectives.next_token import next_token_error
from chronosae.objectives.separation import code_separation, cosine_separation, orthogonality
from chronosae.objectives.window import window_auxk_error, window_error


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
    progress: float = 0.0
    """Share of the training that lies behind."""


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
    """The term's value, without its weight; terms without units are multiplied by d_in (see `TermSpec.per_energy`).

    Raises:
        ValueError: no function computes this type of term.
    """
    if type(term) not in _FUNCTIONS:
        raise ValueError(
            f"nothing computes the term {term.kind!r}; decorate a function with @computes({type(term).__name__})"
        )
    value = _FUNCTIONS[type(term)](term, step)
    return value * step.sae.d_in if value is not None and term.per_energy else value


def _sequences(term: specs.TermSpec, step: StepContext) -> tuple[Layout, Int[Tensor, "batch pos"]]:
    """Layout and documents (one a sequence when none are named)."""
    layout = step.forward.layout
    if layout is None:
        raise ValueError(f"the {term.kind} term looks at neighbours, so it needs activations [batch, pos, d_in]")
    return layout, torch.zeros_like(layout.positions) if layout.doc_ids is None else layout.doc_ids


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
    if not step.dead.any():
        return None
    if isinstance(step.sae, Crosscoder):
        return window_auxk_error(step.sae, step.forward, step.dead, term.k_aux)
    return auxk_error(_where_open(step), step.sae.W_dec, step.dead, term.k_aux)


def _where_open(step: StepContext) -> Pass:
    """The pass without the pre-activations from which, by masked gradients, nothing may be learnt."""
    position_mask, layout = step.sae.position_mask, step.forward.layout
    if position_mask is None or layout is None or not position_mask.cfg.masked_gradients:
        return step.forward
    closed = position_mask.closed(None, layout.positions)
    return step.forward._replace(source=torch.where(closed, 0, step.forward.pre))


@computes(specs.NestedTerm)
def _nested(term: specs.NestedTerm, step: StepContext) -> Tensor:
    weights = term.weights or [1.0] * len(term.prefixes)
    return nested_error(step.forward, step.sae.training_recon, step.sae.d_sae, term.prefixes, weights)


@computes(specs.NextTokenTerm)
def _next_token(term: specs.NextTokenTerm, step: StepContext) -> Tensor:
    head = step.sae.heads["next_token"]
    assert isinstance(head, specs.NextTokenHead)
    return next_token_error(step.forward, head.W_next, head.b_next)


@computes(specs.CosineTerm)
def _cosine(term: specs.CosineTerm, step: StepContext) -> Tensor:
    return cosine_separation(step.sae.W_dec, mixed=True, energy=step.forward.gram_energy)


@computes(specs.OrthogonalityTerm)
def _orthogonality(term: specs.OrthogonalityTerm, step: StepContext) -> Tensor:
    return orthogonality(step.sae.W_dec)


@computes(specs.CodeSeparationTerm)
def _code_separation(term: specs.CodeSeparationTerm, step: StepContext) -> Tensor:
    generator = step.draws.generator(term.kind, 0, step.forward.mask.device)
    return code_separation(step.forward.codes, step.forward.mask, generator=generator)


@computes(specs.ConsistencyTerm)
def _consistency(term: specs.ConsistencyTerm, step: StepContext) -> Tensor:
    layout, doc_ids = _sequences(term, step)
    codes = step.forward.codes
    return consistency_error(codes, layout.mask, doc_ids, term.window, by_persistence=term.by_persistence)


@computes(specs.CrossPositionTerm)
def _cross_position(term: specs.CrossPositionTerm, step: StepContext) -> Tensor:
    layout, _ = _sequences(term, step)
    return cross_position_error(step.forward.codes, layout.mask, layout.positions)


@computes(specs.ContrastiveTerm)
def _contrastive(term: specs.ContrastiveTerm, step: StepContext) -> Tensor:
    layout, doc_ids = _sequences(term, step)
    # The release trains on inputs of mean energy 1; ours have d_in, so that raw products are d_in times as large.
    codes = replace(step.forward.codes, values=step.forward.codes.values / step.sae.d_in**0.5)
    return contrastive_error(
        codes,
        layout.mask,
        doc_ids,
        prefix_size(term.share, step.sae.d_sae),
        pair=term.pair,
        form=term.form,
        temperature=term.temperature,
        generator=step.draws.generator(term.kind, 0, step.forward.mask.device),
    )


@computes(specs.WindowTerm)
def _window(term: specs.WindowTerm, step: StepContext) -> Tensor:
    return window_error(step.sae, step.forward)


@computes(specs.NovelL1Term)
def _novel_l1(term: specs.NovelL1Term, step: StepContext) -> Tensor:
    codes = step.forward.codes
    if not isinstance(codes, PredictiveCodes):
        raise ValueError(f"the novel_l1 term needs the predictive body; a {step.sae.cfg.preset} has no novel codes")
    return l1_penalty(step.forward._replace(codes=codes.novel), step.sae.W_dec)
