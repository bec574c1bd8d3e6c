"""RAVEL-style disentanglement: does one set of features carry one attribute? See docs/evaluations/ravel.md."""

from chronosae.evals.ravel.data import ATTRIBUTES, AttributeSet
from chronosae.evals.ravel.evaluation import Ravel
from chronosae.evals.ravel.options import RavelOptions

__all__ = ["ATTRIBUTES", "AttributeSet", "Ravel", "RavelOptions"]
