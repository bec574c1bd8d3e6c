"""Training: trainer, trainees, schedules, checkpoints. Knows no evaluation."""

from chronosae.training.checkpoint import load_checkpoint, save_checkpoint
from chronosae.training.schedule import lr_multiplier
from chronosae.training.trainee import StepMetrics, Trainee
from chronosae.training.trainer import LogEvent, Stream, Trainer

__all__ = [
    "LogEvent",
    "StepMetrics",
    "Stream",
    "Trainee",
    "Trainer",
    "load_checkpoint",
    "lr_multiplier",
    "save_checkpoint",
]
