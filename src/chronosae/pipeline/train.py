"""The training stage: autoencoders from the plan, one stream, checkpoints, logs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chronosae.activations import ActivationStream, Rewindable, measure_normalisation, training_stream
from chronosae.autoencoders import Normalisation, build_from_spec
from chronosae.config import RunConfig
from chronosae.config import run_folder as files
from chronosae.pipeline.plan import Plan, cache_folder
from chronosae.pipeline.session import Interrupted, Reporter, stop_request
from chronosae.subject import Subject
from chronosae.training import LogEvent, Trainee, Trainer, load_checkpoint, save_checkpoint
from chronosae.training.log import MetricsLog, open_sinks


class TrainingStage:
    """Trains everything in `plan`, from the run folder's checkpoint where there is one.

    After `run`, `trainees` are trained, `seconds` is the time spent over all sessions and `epochs` how often the text
    was read.
    """

    def __init__(self, cfg: RunConfig, plan: Plan, subject: Subject, out_dir: Path, reporter: Reporter) -> None:
        self.cfg, self.plan, self.subject, self.out_dir, self.reporter = cfg, plan, subject, out_dir, reporter
        self.trainees: list[Trainee] = []
        self.epochs = 0.0
        self._before, self._clock = 0.0, time.perf_counter()
        self._trainer: Trainer | None = None

    @property
    def seconds(self) -> float:
        """Wall time of this and earlier sessions of the run."""
        return self._before + time.perf_counter() - self._clock

    @property
    def has_progress(self) -> bool:
        """Something would be lost if the run folder were removed: steps taken, or a cache begun."""
        steps = self._trainer.step_number if self._trainer else 0
        cache = cache_folder(self.cfg, self.out_dir)
        return steps > 0 or (cache.is_dir() and self.cfg.activations.store == "cache")

    def run(self) -> None:
        """Train until done.

        Raises:
            Interrupted: a signal came; everything is saved.
        """
        checkpoint = self.out_dir / files.CHECKPOINT
        start = load_checkpoint(checkpoint) if checkpoint.is_file() else None
        self._before = start["seconds"] if start else 0.0
        self.trainees, opened = self._make_trainees(start["trainer"]["trainees"] if start else None)
        with training_stream(self.cfg, self.subject, cache_folder(self.cfg, self.out_dir), opened) as stream:
            trainer = self._train(stream, start)
            save_checkpoint(checkpoint, {"trainer": trainer.state_dict(), "seconds": self.seconds})
            self.epochs = stream.epochs
        if not trainer.finished:
            raise Interrupted(self.out_dir, trainer.step_number, self.plan.steps)

    def _train(self, stream: ActivationStream, start: dict[str, Any] | None) -> Trainer:
        """From the checkpoint or the beginning, to the end or an interruption."""
        resumed_at = start["trainer"]["step_number"] if start else 0
        sinks = open_sinks(self.cfg.logging, self.out_dir, self.cfg.name, resumed_at)
        log = MetricsLog(self.out_dir / files.METRICS, sinks, keep_steps=resumed_at)

        def on_log(event: LogEvent) -> None:
            log(event)
            self.reporter.trained(event)

        def save(state: dict[str, Any]) -> None:
            save_checkpoint(self.out_dir / files.CHECKPOINT, {"trainer": state, "seconds": self.seconds})

        with stop_request() as stop:
            self._trainer = trainer = Trainer(
                self.trainees,
                stream,
                steps=self.plan.steps,
                log_every=self.cfg.training.log_every,
                checkpoint_every=self.cfg.training.checkpoint_every,
                on_log=on_log,
                on_checkpoint=save,
                should_stop=stop,
            )
            if start:
                trainer.load_state_dict(start["trainer"])
            try:
                with self.reporter.training(self.plan.steps, trainer.step_number):
                    trainer.train()
            finally:
                log.close()
        return trainer

    def _make_trainees(self, states: Mapping[str, Any] | None) -> tuple[list[Trainee], Rewindable | None]:
        """Fresh ones, or (with `states`) ones at the scale they were trained at, to be filled from the checkpoint.

        Fresh ones come with the training stream, whose first batches have been measured.
        """
        measured, stream = None, None
        if states is None:
            with self.reporter.phase("measuring the activations"):
                folder = cache_folder(self.cfg, self.out_dir)
                measured, stream = measure_normalisation(self.cfg, self.subject, folder)
        trainees = []
        for planned in self.plan.saes:
            if measured is not None:
                scale = Normalisation(kind=measured[planned.site].kind, factor=measured[planned.site].factor)
            else:
                assert states is not None
                scale = Normalisation.model_validate(states[planned.name]["normalisation"])
            sae = build_from_spec(planned.spec(self.subject.d_in(planned.site), scale), planned.seed)
            if measured is not None:
                sae.initialise_bias(measured[planned.site].normalised_mean)
            trainees.append(
                Trainee(
                    planned.name,
                    sae.to(self.subject.device),
                    planned.site,
                    self.cfg.training,
                    steps=self.plan.steps,
                    lr=planned.lr,
                    seed=planned.seed,
                )
            )
        return trainees, stream
