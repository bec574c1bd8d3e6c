"""One run: harvest, train, evaluate, write the results. Composes the rooms and holds no algorithm of its own."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chronosae.activations import SequenceBatch, heldout_batches, heldout_tokens, measure_normalisation, open_stream
from chronosae.autoencoders import Autoencoder, Normalisation, build_from_spec, save
from chronosae.config import RunConfig, UserError, config_sha256, load_config, to_yaml
from chronosae.evals import CoreResult, Provenance, evaluate_core, write_core
from chronosae.pipeline import folder as files
from chronosae.pipeline.interrupt import Interrupted, stop_request
from chronosae.pipeline.plan import PlannedSAE, cache_folder
from chronosae.pipeline.prepare import Prepared, prepare
from chronosae.pipeline.provenance import machine, now, versions
from chronosae.pipeline.reporter import Reporter
from chronosae.pipeline.results import last_metrics, run_flags, sae_entry
from chronosae.report import write_notes
from chronosae.subject import Subject
from chronosae.training import LogEvent, Trainee, Trainer, load_checkpoint, save_checkpoint
from chronosae.training.log import MetricsLog, open_sinks


def run(
    cfg: RunConfig,
    out_dir: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train and evaluate everything `cfg` names, into `out_dir`; returns what `final_info.json` holds.

    Arguments:
        resume: continue the run in `out_dir`, which must have the same configuration.
        overwrite: replace the run in `out_dir`.
        reporter: receives progress.

    Raises:
        UserError: bad configuration or input, or an `out_dir` that can't be used; nothing has been written then.
        Interrupted: stopped by a signal during training; `resume` continues bit-equally.
    """
    out_dir, reporter = Path(out_dir), reporter or Reporter()
    prepared = prepare(cfg)
    continuing = files.claim(out_dir, resume=resume, overwrite=overwrite)
    if continuing:
        _require_same_config(cfg, out_dir)
        if (out_dir / files.FINAL).is_file():
            reporter.note(f"{out_dir} is complete already; nothing to resume")
            return files.read_json(out_dir / files.FINAL)
    try:
        files.require_space(out_dir, prepared.plan.disk or 0)
        return _Run(prepared, out_dir, reporter).execute()
    except (UserError, OSError):
        # Nothing has been trained yet: leave the folder as it was, so that the corrected command just works.
        if not continuing and not (out_dir / files.CHECKPOINT).is_file():
            files.abandon(out_dir)
        raise


def _require_same_config(cfg: RunConfig, out_dir: Path) -> None:
    stored = load_config(out_dir / files.CONFIG)
    if config_sha256(stored) != config_sha256(cfg):
        raise UserError(
            f"--out-dir {out_dir}: was started with another configuration ({out_dir / files.CONFIG}); resume with"
            " that one, or add --overwrite"
        )


class _Run:
    """The stages of a run, and what they hand to one another."""

    def __init__(self, prepared: Prepared, out_dir: Path, reporter: Reporter) -> None:
        self.cfg, self.plan, self.out_dir, self.reporter = prepared.cfg, prepared.plan, out_dir, reporter
        self.started, self.clock = now(), time.perf_counter()
        with reporter.phase("loading the subject"):
            self.subject = Subject.load(prepared.subject)
        self.epochs = 0.0

    def execute(self) -> dict[str, Any]:
        """All stages in order."""
        self._write_start()
        if self.cfg.evals.core is not None:
            # Text to evaluate on must exist before hours of training, not after.
            heldout_tokens(self.cfg, self.subject, 1)
        trainees = self._train()
        saes = {trainee.name: trainee.sae for trainee in trainees if trainee.stopped is None}
        planned = {sae.name: sae for sae in self.plan.saes}
        for name, sae in saes.items():
            self._save(planned[name], sae)
        results = self._evaluate(planned, saes)
        info = self._final_info(trainees, results)
        files.write_json(self.out_dir / files.FINAL, info)
        self._write_status("complete")
        write_notes(self.out_dir)
        return info

    def _write_start(self) -> None:
        files.write_text(self.out_dir / files.CONFIG, to_yaml(self.cfg))
        self._write_status("running")

    def _write_status(self, status: str) -> None:
        files.write_json(
            self.out_dir / files.RUN,
            {
                "schema": 1,
                "status": status,
                "name": self.cfg.name,
                "config_sha256": config_sha256(self.cfg),
                "subject_fingerprint": self.subject.fingerprint,
                "seeds": {"data": self.cfg.seed, "saes": self.cfg.training.seeds},
                "versions": versions(),
                "machine": machine(self.subject.device),
                "started": self.started,
            },
        )

    def _trainees(self) -> list[Trainee]:
        with self.reporter.phase("measuring the activations"):
            measured = measure_normalisation(self.cfg, self.subject, cache_folder(self.cfg, self.out_dir))
        trainees = []
        for planned in self.plan.saes:
            site = measured[planned.site]
            normalisation = Normalisation(kind=site.kind, factor=site.factor)
            sae = build_from_spec(planned.spec(self.subject.d_in(planned.site), normalisation), planned.seed)
            sae.initialise_bias(site.normalised_mean)
            sae = sae.to(self.subject.device)
            trainees.append(
                Trainee(
                    planned.name,
                    sae,
                    planned.site,
                    self.cfg.training,
                    steps=self.plan.steps,
                    lr=planned.lr,
                    seed=planned.seed,
                )
            )
        return trainees

    def _train(self) -> list[Trainee]:
        trainees = self._trainees()
        stream = open_stream(self.cfg, self.subject, cache_folder(self.cfg, self.out_dir))
        checkpoint = self.out_dir / files.CHECKPOINT
        start = load_checkpoint(checkpoint) if checkpoint.is_file() else None
        log = MetricsLog(
            self.out_dir / files.METRICS,
            open_sinks(self.cfg.logging, self.out_dir, self.cfg.name),
            keep_steps=start["step_number"] if start else 0,
        )

        def on_log(event: LogEvent) -> None:
            log(event)
            self.reporter.trained(event)

        with stop_request() as stop:
            trainer = Trainer(
                trainees,
                stream,
                steps=self.plan.steps,
                log_every=self.cfg.training.log_every,
                checkpoint_every=self.cfg.training.checkpoint_every,
                on_log=on_log,
                on_checkpoint=lambda state: save_checkpoint(checkpoint, state),
                should_stop=stop,
            )
            if start:
                trainer.load_state_dict(start)
            try:
                with self.reporter.training(self.plan.steps, trainer.step_number):
                    trainer.train()
            finally:
                log.close()
        save_checkpoint(checkpoint, trainer.state_dict())
        self.epochs = stream.epochs
        if not trainer.finished:
            self._write_status("interrupted")
            raise Interrupted(self.out_dir, trainer.step_number, self.plan.steps)
        return trainees

    def _save(self, planned: PlannedSAE, sae: Autoencoder) -> None:
        metadata = {
            "site": planned.site,
            "subject": self.cfg.subject.model,
            "subject_fingerprint": self.subject.fingerprint,
            "context": self.cfg.activations.context,
            "tokens": self.plan.tokens,
            "seed": planned.seed,
            "config_sha256": config_sha256(self.cfg),
        }
        save(sae, self.out_dir / "saes" / planned.name, metadata)

    def _evaluate(self, planned: dict[str, PlannedSAE], saes: dict[str, Autoencoder]) -> dict[str, CoreResult]:
        cfg = self.cfg.evals.core
        if cfg is None or not saes:
            return {}
        results: dict[str, CoreResult] = {}
        for site in dict.fromkeys(planned[name].site for name in saes):
            at_site = {name: sae for name, sae in saes.items() if planned[name].site == site}

            def batches(n_tokens: int, site: str = site) -> Iterator[SequenceBatch]:
                n_sequences = -(-n_tokens // self.cfg.activations.context)
                for batch in heldout_batches(self.cfg, self.subject, n_sequences, cfg.batch_sequences):
                    yield batch[site]

            with self.reporter.phase(f"evaluating at {site}"):
                results |= evaluate_core(at_site, self.subject, site, batches, cfg, seed=self.cfg.seed)
        for name, result in results.items():
            path = self.out_dir / "evals" / "core" / f"{name}_eval_results.json"
            write_core(path, name, saes[name], result, cfg, self._provenance(planned[name]))
        return results

    def _provenance(self, planned: PlannedSAE) -> Provenance:
        return Provenance(
            subject=self.cfg.subject.model,
            subject_fingerprint=self.subject.fingerprint,
            subject_dtype=self.cfg.subject.dtype,
            dataset=self._text_name(),
            config_sha256=config_sha256(self.cfg),
            seed=planned.seed,
            device=str(self.subject.device),
            training_tokens=self.plan.tokens,
        )

    def _text_name(self) -> str:
        return " + ".join(source.name or source.path for source in self.cfg.corpus.resolved_sources())

    def _final_info(self, trainees: list[Trainee], results: dict[str, CoreResult]) -> dict[str, Any]:
        last = last_metrics(self.out_dir / files.METRICS)
        planned = {sae.name: sae for sae in self.plan.saes}
        return {
            "schema": 1,
            "name": self.cfg.name,
            "description": self.cfg.description,
            "saes": {
                trainee.name: sae_entry(
                    planned[trainee.name], trainee, last.get(trainee.name), results.get(trainee.name)
                )
                for trainee in trainees
            },
            "subject": {
                "model": self.cfg.subject.model,
                "fingerprint": self.subject.fingerprint,
                "n_layers": self.subject.n_layers,
                "vocab_size": self.subject.vocab_size,
                "sites": self.cfg.subject.sites,
            },
            "corpus": {
                "text": self._text_name(),
                "context": self.cfg.activations.context,
                "epochs": round(self.epochs, 3),
            },
            "config_sha256": config_sha256(self.cfg),
            "versions": versions(),
            "machine": machine(self.subject.device),
            "seeds": {"data": self.cfg.seed, "saes": self.cfg.training.seeds},
            "started": self.started,
            "wall_seconds": round(time.perf_counter() - self.clock, 1),
            "flags": run_flags(trainees, self.epochs),
        }
