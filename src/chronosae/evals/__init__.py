"""Evaluations: one module each, results in SAEBench's envelope."""

from chronosae.evals.core import Batches, evaluate_core
from chronosae.evals.core_output import core_envelope, write_core
from chronosae.evals.core_result import FLAGS, CoreData, CoreMetrics, CoreResult
from chronosae.evals.envelope import Provenance, envelope, write_envelope
from chronosae.evals.evaluation import EVALUATIONS, EvalOptions, Evaluation
from chronosae.evals.output import result_envelope, write_result
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.schema import result_schema
from chronosae.evals.workbench import Workbench

__all__ = [
    "EVALUATIONS",
    "FLAGS",
    "Batches",
    "CoreData",
    "CoreMetrics",
    "CoreResult",
    "EvalOptions",
    "EvalResult",
    "Evaluation",
    "Missing",
    "Provenance",
    "Setting",
    "Workbench",
    "core_envelope",
    "envelope",
    "evaluate_core",
    "result_envelope",
    "result_schema",
    "write_core",
    "write_envelope",
    "write_result",
]
