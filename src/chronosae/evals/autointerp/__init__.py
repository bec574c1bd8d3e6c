"""Can a language model say in words what a latent is active on? Explanations, judged by detection."""

from chronosae.evals.autointerp.evaluation import Autointerp
from chronosae.evals.autointerp.options import AutointerpOptions

__all__ = ["Autointerp", "AutointerpOptions"]
