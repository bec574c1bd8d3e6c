"""Absorption of first-letter features (SAEBench's `absorption_first_letter`), read in whole prompts."""

from chronosae.evals.absorption.data import AbsorptionOptions
from chronosae.evals.absorption.evaluation import Absorption

__all__ = ["Absorption", "AbsorptionOptions"]
