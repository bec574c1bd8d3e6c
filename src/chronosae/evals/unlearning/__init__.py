"""Unlearning by interventions on features, in SAEBench's protocol. See docs/evaluations/unlearning.md."""

from chronosae.evals.unlearning.data import UnlearningOptions, register
from chronosae.evals.unlearning.evaluation import Unlearning

register()

__all__ = ["Unlearning", "UnlearningOptions"]
