"""Spurious correlation removal (SCR) and targeted probe perturbation (TPP): what zeroing a few features does to probes.

Both are computed as SAEBench defines them and flagged: their reliability is disputed (arXiv 2605.18229). See
docs/evaluations/scr-and-tpp.md.
"""

from chronosae.evals.data import hub_labelled
from chronosae.evals.scr_tpp.data import register
from chronosae.evals.scr_tpp.evaluation import Scr, Tpp

hub_labelled.register()
register()

__all__ = ["Scr", "Tpp"]
