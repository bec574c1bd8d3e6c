"""One run: harvest, train, evaluate, write the results. Composes the rooms and holds no algorithm of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chronosae.activations import heldout_tokens
from chronosae.autoencoders import Autoencoder, save, save_trackers
from chronosae.config import RunConfig, UserError, config_sha256, load_config, to_yaml
from chronosae.config import run_folder as files
from chronosae.config.files import write_json, write_text
from chronosae.evals import EvalResult, Evaluation
from chronosae.pipeline.evaluations import Stage, choose, missing, missing_lines, require, text_name
from chronosae.pipeline.prepare import Prepared, claim, clear, prepare, remove_if_empty, require_space
from chronosae.pipeline.results import Summary, machine, now, run_flags, sae_entry, versions
from chronosae.pipeline.session import Interrupted, Reporter, resume_command
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

    Args:
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
    continuing = claim(out_dir, resume=resume, overwrite=overwrite)
    try:
        if continuing:
            _require_same_config(cfg, out_dir)
            if (out_dir / files.FINAL).is_file():
                return _complete(out_dir, reporter)
        elif not (out_dir / files.RUN).is_file():
            require_space(out_dir, prepared.plan.disk or 0)
        with reporter.phase("loading the subject"):
            subject = Subject.load(prepared.subject, name=cfg.subject.model)
        if any(one.own_text for one in chosen):
            # Text to evaluate on must exist before hours of training, not after.
            heldout_tokens(cfg, subject, 1)
    except BaseException:
        remove_if_empty(out_dir)
        raise
    if not continuing:
        clear(out_dir)
    return _Run(prepared, chosen, subject, out_dir, reporter, continuing=continuing).execute()


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
    return files.read_info(out_dir).as_json()


class _Run:
    """The stages of a run, and what they hand to one another."""

    def __init__(
        self,
        prepared: Prepared,
        chosen: Sequence[Evaluation],
        subject: Subject,
        out_dir: Path,
        reporter: Reporter,
        *,
        continuing: bool,
    ) -> None:
        self.cfg, self.plan, self.chosen = prepared.cfg, prepared.plan, chosen
        self.planned = {sae.name: sae for sae in self.plan.saes}
        self.subject, self.out_dir, self.reporter, self.continuing = subject, out_dir, reporter, continuing
        self.started = self._started()
        self.training = TrainingStage(self.cfg, self.plan, subject, out_dir, reporter)

    def execute(self) -> dict[str, Any]:
        """All stages in order."""
        write_text(self.out_dir / files.CONFIG, to_yaml(self.cfg))
        self._write_status("running")
        try:
            self.training.run()
        except BaseException as error:
            self._leave(error)
            raise
        saes = {trainee.name: trainee.sae for trainee in self.training.trainees if trainee.stopped is None}
        self._save(saes)
        stage = Stage(self.cfg, self.subject, self.planned, self.out_dir, self.reporter)
        results, flags = stage.run([one for one in self.chosen if one.name == "core"], saes)
        summary = Summary(self._info(results.get("core", {}), flags), self.out_dir)
        # What took hours is on disk before evaluations that may take hours begin.
        summary.write()
        try:
            others = [one for one in self.chosen if one.name != "core"]
            summary.flag(stage.run(others, saes, summary)[1])
        except BaseException:
            self.reporter.note(f"training is complete; for the other evaluations: chronosae eval {self.out_dir}")
            raise
        finally:
            summary.write()
            write_notes(self.out_dir)
            self._write_status("complete")
        return summary.info.as_json()

    def _started(self) -> str:
        """When the run began; a continued one must still have the subject it began with."""
        if not self.continuing:
            return now()
        record = files.read_record(self.out_dir)
        if record.subject_fingerprint != self.subject.fingerprint:
            raise UserError(
                f"--out-dir {self.out_dir}: was started with other weights or another tokenizer than"
                f" {self.cfg.subject.model} holds now; put those back, or add --overwrite"
            )
        return record.started or now()

    def _leave(self, error: BaseException) -> None:
        """Training ended early: keep what was done, or leave no trace when nothing was."""
        if not self.continuing and not self.training.has_progress:
            clear(self.out_dir)
            remove_if_empty(self.out_dir)
            return
        self._write_status("interrupted")
        if not isinstance(error, Interrupted):
            self.reporter.note(f"what was done is kept; continue with: {resume_command(self.out_dir)}")

    def _write_status(self, status: str) -> None:
        record = files.RunRecord(
            version=files.SCHEMA,
            status=status,
            name=self.cfg.name,
            config_sha256=config_sha256(self.cfg),
            subject_fingerprint=self.subject.fingerprint,
            seeds=self._seeds(),
            versions=versions(),
            machine=machine(self.subject.device),
            started=self.started,
        )
        write_json(self.out_dir / files.RUN, record.as_json())

    def _seeds(self) -> files.Seeds:
        return files.Seeds(data=self.cfg.seed, saes=self.cfg.training.seeds)

    def _save(self, saes: Mapping[str, Autoencoder]) -> None:
        trackers = {trainee.name: trainee.trackers for trainee in self.training.trainees}
        for name, planned in self.planned.items():
            if name in saes:
                metadata = {
                    "site": planned.site,
                    "subject": self.cfg.subject.model,
                    "subject_fingerprint": self.subject.fingerprint,
                    "context": self.cfg.activations.context,
                    "tokens": self.plan.tokens,
                    "seed": planned.seed,
                    "config_sha256": config_sha256(self.cfg),
                }
                folder = self.out_dir / files.SAES / name
                save(saes[name], folder, metadata)
                save_trackers(trackers.get(name, {}), folder)

    def _info(self, results: Mapping[str, EvalResult], flags: list[str]) -> files.RunInfo:
        last = {name: lines[-1] for name, lines in files.read_metrics(self.out_dir).items()}
        return files.RunInfo(
            version=files.SCHEMA,
            name=self.cfg.name,
            description=self.cfg.description,
            saes={
                trainee.name: sae_entry(
                    self.planned[trainee.name],
                    trainee,
                    last.get(trainee.name, files.MetricsLine()),
                    results.get(trainee.name),
                )
                for trainee in self.training.trainees
            },
            subject=files.SubjectRecord(
                model=self.cfg.subject.model,
                fingerprint=self.subject.fingerprint,
                n_layers=self.subject.n_layers,
                vocab_size=self.subject.vocab_size,
                sites=self.cfg.subject.sites,
            ),
            corpus=files.CorpusRecord(
                text=text_name(self.cfg),
                context=self.cfg.activations.context,
                epochs=round(self.training.epochs, 3),
            ),
            config_sha256=config_sha256(self.cfg),
            versions=versions(),
            machine=machine(self.subject.device),
            seeds=self._seeds(),
            started=self.started,
            wall_seconds=round(self.training.seconds, 1),
            flags=[*flags, *run_flags(self.training.epochs)],
        )
