"""Evaluations: a package each, all of one form, results in SAEBench's envelope. One of your own: `docs/extend/`."""

from chronosae.evals.envelope import Provenance, envelope, result_envelope, result_schema, write_envelope
from chronosae.evals.evaluation import EVALUATIONS, EvalOptions, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.workbench import Heldout, Workbench

__all__ = [
    "EVALUATIONS",
    "EvalOptions",
    "EvalResult",
    "Evaluation",
    "Heldout",
    "Missing",
    "Provenance",
    "Setting",
    "Workbench",
    "envelope",
    "result_envelope",
    "result_schema",
    "write_envelope",
]
