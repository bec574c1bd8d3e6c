"""All that a part of your own needs, in one place; docs/architectures/your-own-part.md builds one from it.

A slot's registry (`MIXERS.add` as a class decorator), the base of its specs, and what a part is handed when it runs.
"""

from chronosae.autoencoders import (
    Activation,
    Codes,
    DenseCodes,
    Draws,
    Layout,
    Normalisation,
    Pass,
    Past,
    SparseCodes,
    Spec,
    shifted,
)
from chronosae.autoencoders.parts import ModuleSpec
from chronosae.autoencoders.parts.activations import ACTIVATIONS, ActivationSpec
from chronosae.autoencoders.parts.inputs import CORRUPTIONS, NORMS, CorruptionSpec, NormSpec
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS, PositionMask, PositionMaskSpec
from chronosae.autoencoders.parts.temporal import FEATURE_KERNELS, MIXERS, FeatureKernelSpec, MixerSpec
from chronosae.autoencoders.parts.terms import TERMS, TRACKERS, TrackerSpec
from chronosae.config.registry import PartSpec, Registry
from chronosae.objectives import SteeredTerm, StepContext, Term, masked_mean
from chronosae.objectives.tracker import TensorState
from chronosae.presets import PRESETS, PartsPreset, Preset, TopKPreset

__all__ = [
    "ACTIVATIONS",
    "CORRUPTIONS",
    "FEATURE_KERNELS",
    "MIXERS",
    "NORMS",
    "POSITION_MASKS",
    "PRESETS",
    "TERMS",
    "TRACKERS",
    "Activation",
    "ActivationSpec",
    "Codes",
    "CorruptionSpec",
    "DenseCodes",
    "Draws",
    "FeatureKernelSpec",
    "Layout",
    "MixerSpec",
    "ModuleSpec",
    "NormSpec",
    "Normalisation",
    "PartSpec",
    "PartsPreset",
    "Pass",
    "Past",
    "PositionMask",
    "PositionMaskSpec",
    "Preset",
    "Registry",
    "SparseCodes",
    "Spec",
    "SteeredTerm",
    "StepContext",
    "TensorState",
    "Term",
    "TopKPreset",
    "TrackerSpec",
    "masked_mean",
    "shifted",
]
