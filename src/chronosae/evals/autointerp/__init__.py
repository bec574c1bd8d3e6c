"""Can a language model say in words what a latent is active on? Explanations, judged by detection."""

from chronosae.evals.autointerp.data import AutointerpOptions
from chronosae.evals.autointerp.evaluation import Autointerp

__all__ = ["Autointerp", "AutointerpOptions"]
