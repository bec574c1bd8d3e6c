"""One run: harvest, train, evaluate, write the results. Composes the rooms and holds no algorithm of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chronosae.activations import heldout_tokens
from chronosae.autoencoders import Autoencoder, save, save_trackers
from chronosae.config import RunConfig, UserError, config_sha256, load_config, to_yaml
from chronosae.evals import CoreResult, Evaluation
from chronosae.pipeline import folder as files
from chronosae.pipeline.evaluate import evaluate, provenance_of, text_name
from chronosae.pipeline.evaluations import by_site, choose, missing, missing_lines, require, run_evaluations
from chronosae.pipeline.interrupt import Interrupted, resume_command
from chronosae.pipeline.plan import Plan
from chronosae.pipeline.prepare import Prepared, prepare
from chronosae.pipeline.provenance import machine, now, versions
from chronosae.pipeline.reporter import Reporter
from chronosae.pipeline.results import last_metrics, run_flags, sae_entry
from chronosae.pipeline.summary import Summary
from chronosae.pipeline.train import TrainingStage
from chronosae.report import write_notes
from chronosae.subject import Subject


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
        resume: continue the run in `out_dir`, which must have the same configuration and subject.
        overwrite: replace the run in `out_dir`; it is removed only when everything for the new one is in place.
        reporter: receives progress.

    Raises:
        UserError: bad configuration or input, or an `out_dir` that can't be used. Before the first step `out_dir` is
            left as it was; after it, what was done is kept and `resume` continues from the last checkpoint.
        Interrupted: stopped by a signal during training; `resume` continues bit-equally.
    """
    out_dir, reporter = Path(out_dir), reporter or Reporter()
    chosen = choose(cfg)
    prepared = _prepare(cfg, chosen, out_dir)
    widths = {sae.name: int(sae.options.d_sae) for sae in prepared.plan.saes}
    require(missing(chosen, cfg, prepared.info, out_dir, widths))
    continuing = files.claim(out_dir, resume=resume, overwrite=overwrite)
    try:
        if continuing:
            _require_same_config(cfg, out_dir)
            if (out_dir / files.FINAL).is_file():
                return _complete(out_dir, reporter)
        elif not files.is_run(out_dir):
            files.require_space(out_dir, prepared.plan.disk or 0)
        with reporter.phase("loading the subject"):
            subject = Subject.load(prepared.subject, name=cfg.subject.model)
        if cfg.evals.core is not None:
            # Text to evaluate on must exist before hours of training, not after.
            heldout_tokens(cfg, subject, 1)
    except BaseException:
        files.remove_if_empty(out_dir)
        raise
    if not continuing:
        files.clear(out_dir)
    return _Run(prepared, subject, chosen, out_dir, reporter, continuing).execute()


def _prepare(cfg: RunConfig, chosen: Sequence[Evaluation], out_dir: Path) -> Prepared:
    """`prepare`, whose refusal also tells what the evaluations would lack: everything missing, at once."""
    try:
        return prepare(cfg)
    except UserError as error:
        lacks = missing_lines(missing(chosen, cfg, None, out_dir, {}))
        raise UserError(" | ".join([str(error), *lacks])) from None


def _require_same_config(cfg: RunConfig, out_dir: Path) -> None:
    stored = load_config(out_dir / files.CONFIG)
    if config_sha256(stored) != config_sha256(cfg):
        raise UserError(
            f"--out-dir {out_dir}: was started with another configuration; continue with: {resume_command(out_dir)}"
        )


def _complete(out_dir: Path, reporter: Reporter) -> dict[str, Any]:
    """The results of a finished run; its notes are written if a crash came between the two."""
    reporter.note(f"{out_dir} is complete already; nothing to resume")
    if not (out_dir / files.NOTES).is_file():
        write_notes(out_dir)
    return files.read_json(out_dir / files.FINAL)


class _Run:
    """The stages of a run, and what they hand to one another."""

    def __init__(
        self,
        prepared: Prepared,
        subject: Subject,
        chosen: Sequence[Evaluation],
        out_dir: Path,
        reporter: Reporter,
        continuing: bool,
    ) -> None:
        self.chosen = chosen
        self.cfg: RunConfig = prepared.cfg
        self.plan: Plan = prepared.plan
        self.subject, self.out_dir, self.reporter, self.continuing = subject, out_dir, reporter, continuing
        self.started = self._started()
        self.training = TrainingStage(self.cfg, self.plan, subject, out_dir, reporter)

    def execute(self) -> dict[str, Any]:
        """All stages in order."""
        files.write_text(self.out_dir / files.CONFIG, to_yaml(self.cfg))
        self._write_status("running")
        try:
            self.training.run()
        except BaseException as error:
            self._leave(error)
            raise
        saes = {trainee.name: trainee.sae for trainee in self.training.trainees if trainee.stopped is None}
        self._save(saes)
        results, flags = evaluate(self.cfg, self.plan, self.subject, saes, self.out_dir, self.reporter)
        info = self._final_info(results, flags)
        # What took hours is on disk before evaluations that may take hours begin.
        files.write_json(self.out_dir / files.FINAL, info)
        try:
            self._evaluate_more(saes, info)
        except BaseException:
            self.reporter.note(f"training is complete; for the other evaluations: chronosae eval {self.out_dir}")
            raise
        finally:
            files.write_json(self.out_dir / files.FINAL, info)
            write_notes(self.out_dir)
            self._write_status("complete")
        return info

    def _started(self) -> str:
        """When the run began; a continued one must still have the subject it began with."""
        if not self.continuing:
            return now()
        record = files.read_json(self.out_dir / files.RUN)
        if record.get("subject_fingerprint") != self.subject.fingerprint:
            raise UserError(
                f"--out-dir {self.out_dir}: was started with other weights or another tokenizer than"
                f" {self.cfg.subject.model} holds now; put those back, or add --overwrite"
            )
        return record.get("started") or now()

    def _leave(self, error: BaseException) -> None:
        """Training ended early: keep what was done, or leave no trace when nothing was."""
        if not self.continuing and not self.training.has_progress:
            files.clear(self.out_dir)
            files.remove_if_empty(self.out_dir)
            return
        self._write_status("interrupted")
        if not isinstance(error, Interrupted):
            self.reporter.note(f"what was done is kept; continue with: {resume_command(self.out_dir)}")

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

    def _evaluate_more(self, saes: Mapping[str, Autoencoder], info: dict[str, Any]) -> None:
        """The evaluations beside core, into `info`."""
        planned = {sae.name: sae for sae in self.plan.saes}
        info["flags"] += run_evaluations(
            self.chosen,
            self.cfg,
            self.subject,
            list(by_site(saes, {name: planned[name].site for name in saes})),
            self.out_dir,
            lambda name: provenance_of(self.cfg, self.plan.tokens, self.subject, planned[name]),
            self.reporter,
            Summary(info, self.out_dir),
        )

    def _save(self, saes: Mapping[str, Autoencoder]) -> None:
        trackers = {trainee.name: trainee.trackers for trainee in self.training.trainees}
        for planned in self.plan.saes:
            if planned.name in saes:
                metadata = {
                    "site": planned.site,
                    "subject": self.cfg.subject.model,
                    "subject_fingerprint": self.subject.fingerprint,
                    "context": self.cfg.activations.context,
                    "tokens": self.plan.tokens,
                    "seed": planned.seed,
                    "config_sha256": config_sha256(self.cfg),
                }
                folder = self.out_dir / "saes" / planned.name
                save(saes[planned.name], folder, metadata)
                save_trackers(trackers.get(planned.name, {}), folder)

    def _final_info(self, results: Mapping[str, CoreResult], flags: list[str]) -> dict[str, Any]:
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
                for trainee in self.training.trainees
            },
            "subject": {
                "model": self.cfg.subject.model,
                "fingerprint": self.subject.fingerprint,
                "n_layers": self.subject.n_layers,
                "vocab_size": self.subject.vocab_size,
                "sites": self.cfg.subject.sites,
            },
            "corpus": {
                "text": text_name(self.cfg),
                "context": self.cfg.activations.context,
                "epochs": round(self.training.epochs, 3),
            },
            "config_sha256": config_sha256(self.cfg),
            "versions": versions(),
            "machine": machine(self.subject.device),
            "seeds": {"data": self.cfg.seed, "saes": self.cfg.training.seeds},
            "started": self.started,
            "wall_seconds": round(self.training.seconds, 1),
            "flags": [*flags, *run_flags(self.training.epochs)],
        }
