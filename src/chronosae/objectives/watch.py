"""What each tracker is shown of a step: a table from its spec to a function, which a tracker of your own joins."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from chronosae.autoencoders.parts.relations import CorrelationWatcher, PredictionHead
from chronosae.autoencoders.parts.watchers import FiringWatcher, ImportanceWatcher, WatcherSpec
from chronosae.autoencoders.trackers import FeatureImportance, FiringFrequency, TemporalCorrelationTracker
from chronosae.objectives.terms import StepContext

W = TypeVar("W", bound=WatcherSpec)
_FUNCTIONS: dict[type, Callable[[Any, StepContext], None]] = {}


def watches(spec: type[W]) -> Callable[[Callable[[Any, StepContext], None]], Callable[[Any, StepContext], None]]:
    """Decorator: the function shows a finished step to the tracker that `spec` made."""

    def register(function: Callable[[Any, StepContext], None]) -> Callable[[Any, StepContext], None]:
        _FUNCTIONS[spec] = function
        return function

    return register


@torch.no_grad()
def watch(spec: WatcherSpec, step: StepContext) -> None:
    """Show `step` to the tracker of this kind; it keeps no graph.

    Raises:
        ValueError: no function shows steps to this type of tracker.
    """
    if type(spec) not in _FUNCTIONS:
        raise ValueError(f"nothing feeds the tracker {spec.kind!r}; decorate a function with @watches")
    _FUNCTIONS[type(spec)](step.trackers[spec.kind], step)


@watches(FiringWatcher)
def _firing(tracker: FiringFrequency, step: StepContext) -> None:
    tracker.update(step.forward.codes, step.forward.mask)


@watches(ImportanceWatcher)
def _importance(tracker: FeatureImportance, step: StepContext) -> None:
    tracker.update(step.forward.codes, step.sae.W_dec, step.forward.mask)


@watches(CorrelationWatcher)
def _correlation(tracker: TemporalCorrelationTracker, step: StepContext) -> None:
    layout = step.forward.layout
    if layout is None:
        raise ValueError("the correlation tracker looks at neighbours, so it needs activations [batch, pos, d_in]")
    head = dict(step.sae.heads.items()).get("causal_prediction")
    interaction = head.interaction if isinstance(head, PredictionHead) else None
    # Candidates are chosen on the first half and measured on the second: the same tokens would flatter them.
    if step.progress >= 0.5 and not tracker.measuring:
        tracker.measure()
    tracker.update(
        step.forward.codes.detach(), layout.mask, layout.doc_ids, step=step.draws.step, interaction=interaction
    )
