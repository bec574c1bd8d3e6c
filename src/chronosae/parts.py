"""All that a part of your own needs, in one place; docs/architectures/your-own-part.md builds one from it.

A slot's registry (`MIXERS.add` as a class decorator), the base of its specs, and what a part is handed when it runs. A
term says what it computes with `@computes`, a tracker what it is shown with `@watches`.
"""

from chronosae.autoencoders.codes import Codes, DenseCodes, SparseCodes
from chronosae.autoencoders.draws import Draws
from chronosae.autoencoders.layout import Layout, Past, shifted
from chronosae.autoencoders.parts.activations import ACTIVATIONS, Activation, ActivationSpec
from chronosae.autoencoders.parts.base import ModuleSpec, PartSpec, Registry
from chronosae.autoencoders.parts.corruptions import CORRUPTIONS, CorruptionSpec
from chronosae.autoencoders.parts.feature_kernels import KERNELS, KernelSpec
from chronosae.autoencoders.parts.mixers import MIXERS, MixerSpec
from chronosae.autoencoders.parts.norms import NORMS, NormSpec
from chronosae.autoencoders.parts.position_masks import POSITION_MASKS, PositionMask, PositionMaskSpec
from chronosae.autoencoders.parts.terms import TERMS, TermSpec
from chronosae.autoencoders.parts.watchers import WATCHERS, WatcherSpec
from chronosae.autoencoders.passes import Pass
from chronosae.objectives import StepContext, computes, masked_mean, watches

__all__ = [
    "ACTIVATIONS",
    "CORRUPTIONS",
    "KERNELS",
    "MIXERS",
    "NORMS",
    "POSITION_MASKS",
    "TERMS",
    "WATCHERS",
    "Activation",
    "ActivationSpec",
    "Codes",
    "CorruptionSpec",
    "DenseCodes",
    "Draws",
    "KernelSpec",
    "Layout",
    "MixerSpec",
    "ModuleSpec",
    "NormSpec",
    "PartSpec",
    "Pass",
    "Past",
    "PositionMask",
    "PositionMaskSpec",
    "Registry",
    "SparseCodes",
    "StepContext",
    "TermSpec",
    "WatcherSpec",
    "computes",
    "masked_mean",
    "shifted",
    "watches",
]
