"""Unlearning by clamped features, in SAEBench's protocol."""

from chronosae.evals.unlearning.evaluation import Unlearning
from chronosae.evals.unlearning.hub import register
from chronosae.evals.unlearning.options import UnlearningOptions

register()

__all__ = ["Unlearning", "UnlearningOptions"]
