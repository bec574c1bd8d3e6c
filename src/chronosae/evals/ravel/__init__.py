"""RAVEL-style disentanglement: does one set of features carry one attribute? See docs/evaluations/ravel.md."""

from chronosae.evals.ravel.data import ATTRIBUTES, AttributeSet, RavelOptions
from chronosae.evals.ravel.evaluation import Ravel

__all__ = ["ATTRIBUTES", "AttributeSet", "Ravel", "RavelOptions"]
