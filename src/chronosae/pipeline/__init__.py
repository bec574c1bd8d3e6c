"""Composes the rooms: a run from configuration to results."""

from chronosae.pipeline.evaluate_run import evaluate_run, plan_job
from chronosae.pipeline.interrupt import Interrupted
from chronosae.pipeline.prepare import prepare
from chronosae.pipeline.reporter import Reporter
from chronosae.pipeline.run import run

__all__ = ["Interrupted", "Reporter", "evaluate_run", "plan_job", "prepare", "run"]
