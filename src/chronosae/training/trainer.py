"""The loop: one activation stream, many autoencoders, each trained exactly as if it were alone."""

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from chronosae.activations import SequenceBatch
from chronosae.config import UserError
from chronosae.config.files import whole
from chronosae.training.trainee import StepMetrics, Trainee


@runtime_checkable
class Stream(Protocol):
    """What the trainer needs of an activation store."""

    def next(self) -> Mapping[str, SequenceBatch]:
        """The next batch, one entry a site."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class LogEvent:
    """Progress of every running trainee at one step."""

    step: int
    tokens: int
    tokens_per_s: float
    metrics: Mapping[str, StepMetrics]


class Trainer:
    """Runs `trainees` over `stream` for `steps` steps.

    Args:
        log_every: steps between calls of `on_log` (which also come at the last step).
        checkpoint_every: steps between calls of `on_checkpoint`; 0 is never.
        should_stop: asked after every step; True ends the loop early, at a step that `state_dict` can continue from.
    """

    def __init__(
        self,
        trainees: Sequence[Trainee],
        stream: Stream,
        *,
        steps: int,
        log_every: int = 20,
        checkpoint_every: int = 0,
        on_log: Callable[[LogEvent], None] = lambda event: None,
        on_checkpoint: Callable[[dict[str, Any]], None] = lambda state: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.trainees, self.stream, self.steps = list(trainees), stream, steps
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.on_log, self.on_checkpoint, self.should_stop = on_log, on_checkpoint, should_stop
        self.step_number = 0

    @property
    def finished(self) -> bool:
        """No step is left to take."""
        return self.step_number >= self.steps or all(trainee.stopped for trainee in self.trainees)

    def train(self) -> None:
        """Train until finished, or until `should_stop`."""
        since, steps_since = time.perf_counter(), 0
        while not self.finished:
            batches = self.stream.next()
            for trainee in self.trainees:
                if trainee.stopped is None:
                    trainee.step(batches[trainee.site])
            self.step_number += 1
            steps_since += 1
            if self.step_number % self.log_every == 0 or self.finished:
                now, step_tokens = time.perf_counter(), next(iter(batches.values())).mask.numel()
                self._log(self.step_number * step_tokens, steps_since * step_tokens / (now - since))
                since, steps_since = now, 0
            if self.checkpoint_every and self.step_number % self.checkpoint_every == 0:
                self.on_checkpoint(self.state_dict())
            if self.should_stop():
                return

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-equal continuation needs."""
        return {
            "step_number": self.step_number,
            "stream": self.stream.state_dict(),
            "trainees": {trainee.name: trainee.state_dict() for trainee in self.trainees},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`: the next batch is the one that would have come next."""
        self.step_number = state["step_number"]
        self.stream.load_state_dict(state["stream"])
        for trainee in self.trainees:
            trainee.load_state_dict(state["trainees"][trainee.name])

    def _log(self, tokens: int, tokens_per_s: float) -> None:
        metrics = {trainee.name: trainee.metrics() for trainee in self.trainees if trainee.stopped is None}
        self.on_log(LogEvent(self.step_number, tokens, tokens_per_s, metrics))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by a trainer's state in one atomic step; a crash leaves the old file."""
    with whole(path) as temporary, temporary.open("wb") as handle:
        torch.save(state, handle)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, so that nothing it contains is run.

    Raises:
        UserError: missing, truncated, or holding anything else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint to resume from")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError):
        raise UserError(f"{path}: damaged checkpoint; delete it and start over with --overwrite") from None
