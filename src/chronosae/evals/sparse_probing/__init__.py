"""Sparse probing: how well k features alone tell a text's class (Gurnee et al. 2023, arXiv 2305.01610; SAEBench)."""

from chronosae.evals.data.hub_labelled import register
from chronosae.evals.sparse_probing.data import SparseProbingOptions
from chronosae.evals.sparse_probing.evaluation import SparseProbing

register()

__all__ = ["SparseProbing", "SparseProbingOptions"]
