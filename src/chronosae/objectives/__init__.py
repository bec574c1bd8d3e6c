"""Objective terms and trackers: the specification, formula and state of one idea stand together in one file.

Importing this package makes all of them known by name, so that a saved autoencoder's terms are found; the file of each
is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chronosae.autoencoders.parts.terms import TERMS, TRACKERS

if TYPE_CHECKING:
    from chronosae.objectives.auxk import AuxKTerm, WindowTerm, auxk_error
    from chronosae.objectives.buffer import CircularFeatureBuffer
    from chronosae.objectives.causal import CausalPredictionTerm, CorrelationTerm
    from chronosae.objectives.consistency import ConsistencyTerm, CrossPositionTerm
    from chronosae.objectives.contrastive import ContrastiveTerm
    from chronosae.objectives.correlation import CorrelationTracker, Interaction, TemporalCorrelationTracker
    from chronosae.objectives.firing import FeatureImportance, FiringFrequency, FiringTracker, ImportanceTracker
    from chronosae.objectives.history import as_slots, same_document
    from chronosae.objectives.lagged import LaggedTerm
    from chronosae.objectives.reconstruction import NestedTerm, NextTokenTerm
    from chronosae.objectives.regressors import RegressorCounts
    from chronosae.objectives.separation import CodeSeparationTerm, CosineTerm, OrthogonalityTerm
    from chronosae.objectives.sketch import surprise
    from chronosae.objectives.sparsity import GateAuxTerm, GateL1Term, L0Term, L1Term, NovelL1Term, l1_penalty
    from chronosae.objectives.term import SteeredTerm, StepContext, Term, masked_mean, reconstruction_error, term_value

_MODULES: dict[str, tuple[str, ...]] = {
    "auxk": (
        "AuxKTerm",
        "WindowTerm",
        "auxk_error",
    ),
    "buffer": ("CircularFeatureBuffer",),
    "causal": (
        "CausalPredictionTerm",
        "CorrelationTerm",
    ),
    "consistency": (
        "ConsistencyTerm",
        "CrossPositionTerm",
    ),
    "contrastive": ("ContrastiveTerm",),
    "correlation": (
        "CorrelationTracker",
        "Interaction",
        "TemporalCorrelationTracker",
    ),
    "firing": (
        "FeatureImportance",
        "FiringFrequency",
        "FiringTracker",
        "ImportanceTracker",
    ),
    "history": (
        "as_slots",
        "same_document",
    ),
    "lagged": ("LaggedTerm",),
    "reconstruction": (
        "NestedTerm",
        "NextTokenTerm",
    ),
    "regressors": ("RegressorCounts",),
    "separation": (
        "CodeSeparationTerm",
        "CosineTerm",
        "OrthogonalityTerm",
    ),
    "sketch": ("surprise",),
    "sparsity": (
        "GateAuxTerm",
        "GateL1Term",
        "L0Term",
        "L1Term",
        "NovelL1Term",
        "l1_penalty",
    ),
    "term": (
        "SteeredTerm",
        "StepContext",
        "Term",
        "masked_mean",
        "reconstruction_error",
        "term_value",
    ),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

TERMS.expect(
    {
        kind: f"{__name__}.{module}"
        for kind, module in {
            "l1": "sparsity",
            "l0": "sparsity",
            "gate_l1": "sparsity",
            "gate_aux": "sparsity",
            "auxk": "auxk",
            "nested": "reconstruction",
            "cosine": "separation",
            "orthogonality": "separation",
            "code_separation": "separation",
            "consistency": "consistency",
            "cross_position": "consistency",
            "contrastive": "contrastive",
            "next_token": "reconstruction",
            "window": "auxk",
            "novel_l1": "sparsity",
            "causal_prediction": "causal",
            "correlation": "causal",
            "lagged": "lagged",
        }.items()
    }
)
TRACKERS.expect(
    {
        "firing": f"{__name__}.firing",
        "importance": f"{__name__}.firing",
        "correlation": f"{__name__}.correlation",
    }
)

__all__ = [
    "AuxKTerm",
    "CausalPredictionTerm",
    "CircularFeatureBuffer",
    "CodeSeparationTerm",
    "ConsistencyTerm",
    "ContrastiveTerm",
    "CorrelationTerm",
    "CorrelationTracker",
    "CosineTerm",
    "CrossPositionTerm",
    "FeatureImportance",
    "FiringFrequency",
    "FiringTracker",
    "GateAuxTerm",
    "GateL1Term",
    "ImportanceTracker",
    "Interaction",
    "L0Term",
    "L1Term",
    "LaggedTerm",
    "NestedTerm",
    "NextTokenTerm",
    "NovelL1Term",
    "OrthogonalityTerm",
    "RegressorCounts",
    "SteeredTerm",
    "StepContext",
    "TemporalCorrelationTracker",
    "Term",
    "WindowTerm",
    "as_slots",
    "auxk_error",
    "l1_penalty",
    "masked_mean",
    "reconstruction_error",
    "same_document",
    "surprise",
    "term_value",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
