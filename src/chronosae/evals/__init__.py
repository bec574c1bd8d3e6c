"""Evaluations: one module each, results in SAEBench's envelope."""

from chronosae.evals.core import Batches, evaluate_core
from chronosae.evals.core_output import core_envelope, write_core
from chronosae.evals.core_result import FLAGS, CoreData, CoreMetrics, CoreResult
from chronosae.evals.envelope import Provenance, envelope, write_envelope
from chronosae.evals.evaluation import EvalOptions, Evaluation
from chronosae.evals.output import result_envelope, write_result
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.registry import evaluation_names, find_evaluation, read_eval_options
from chronosae.evals.result import EvalResult
from chronosae.evals.schema import result_schema
from chronosae.evals.workbench import Workbench

__all__ = [
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
    "evaluation_names",
    "find_evaluation",
    "read_eval_options",
    "result_envelope",
    "result_schema",
    "write_core",
    "write_envelope",
    "write_result",
]
