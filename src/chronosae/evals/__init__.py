"""Evaluations: one module each, results in SAEBench's envelope."""

from chronosae.evals.core import Batches, evaluate_core
from chronosae.evals.core_output import core_envelope, write_core
from chronosae.evals.core_result import FLAGS, CoreData, CoreMetrics, CoreResult
from chronosae.evals.envelope import Provenance, envelope, write_envelope

__all__ = [
    "FLAGS",
    "Batches",
    "CoreData",
    "CoreMetrics",
    "CoreResult",
    "Provenance",
    "core_envelope",
    "envelope",
    "evaluate_core",
    "write_core",
    "write_envelope",
]
