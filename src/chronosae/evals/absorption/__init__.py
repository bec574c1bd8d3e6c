"""Absorption of first-letter features (SAEBench's `absorption_first_letter`), read in whole prompts."""

from chronosae.evals.absorption.evaluation import AbsorptionEvaluation
from chronosae.evals.absorption.options import AbsorptionOptions

__all__ = ["AbsorptionEvaluation", "AbsorptionOptions"]
