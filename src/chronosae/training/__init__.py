"""Training: trainer, trainees, schedules, checkpoints. Knows no evaluation."""

from chronosae.training.trainee import StepMetrics, Trainee
from chronosae.training.trainer import LogEvent, Stream, Trainer, load_checkpoint, save_checkpoint
from chronosae.training.update import lr_multiplier

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
