"""Objective terms: each a function of one forward pass, in the autoencoder's normalised units."""

from chronosae.objectives.auxk import auxk_error
from chronosae.objectives.l1 import l1_penalty
from chronosae.objectives.reconstruction import masked_mean, reconstruction_error

__all__ = ["auxk_error", "l1_penalty", "masked_mean", "reconstruction_error"]
