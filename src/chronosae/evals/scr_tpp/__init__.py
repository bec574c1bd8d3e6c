"""Spurious correlation removal (SCR) and targeted probe perturbation (TPP): what zeroing a few features does to probes.

Both are computed as SAEBench defines them and flagged: their reliability is disputed (arXiv 2605.18229).
"""

from chronosae.evals.data import hub_labelled
from chronosae.evals.scr_tpp import hub_pairs

hub_labelled.register()
hub_pairs.register()
