"""Core: reconstruction, sparsity, and what the subject makes of the reconstruction (SAEBench's core)."""

from chronosae.evals.core.evaluation import Core
from chronosae.evals.core.report import CoreMetrics

__all__ = ["Core", "CoreMetrics"]
