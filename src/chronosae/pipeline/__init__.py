"""Composes the rooms: a run from configuration to results."""

from chronosae.pipeline.interrupt import Interrupted
from chronosae.pipeline.prepare import prepare
from chronosae.pipeline.reporter import Reporter
from chronosae.pipeline.run import run

__all__ = ["Interrupted", "Reporter", "prepare", "run"]
