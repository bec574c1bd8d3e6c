"""Objective terms: each a function of one forward pass, in the autoencoder's normalised units."""

from chronosae.objectives import lagged, relations  # noqa: F401 (they register what their terms compute)
from chronosae.objectives.auxk import auxk_error
from chronosae.objectives.l1 import l1_penalty
from chronosae.objectives.reconstruction import masked_mean, reconstruction_error
from chronosae.objectives.terms import StepContext, computes, term_value
from chronosae.objectives.watch import watch, watches

__all__ = [
    "StepContext",
    "auxk_error",
    "computes",
    "l1_penalty",
    "masked_mean",
    "reconstruction_error",
    "term_value",
    "watch",
    "watches",
]
