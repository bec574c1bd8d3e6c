"""Composes the rooms: a run from configuration to results."""

from chronosae.pipeline.evaluations import evaluate_run, plan_job
from chronosae.pipeline.prepare import prepare
from chronosae.pipeline.run import run
from chronosae.pipeline.session import Interrupted, Reporter

__all__ = ["Interrupted", "Reporter", "evaluate_run", "plan_job", "prepare", "run"]
