"""`chronosae eval`: evaluate the autoencoders of a finished run, again or for the first time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae.autoencoders import load
from chronosae.config import RunConfig, SubjectConfig, UserError, load_config
from chronosae.evals import Evaluation, Provenance
from chronosae.evals.preflight import Missing
from chronosae.pipeline import folder as files
from chronosae.pipeline.evaluate import evaluate_core_of, provenance_of
from chronosae.pipeline.evaluations import by_site, choose, missing, require, run_evaluations
from chronosae.pipeline.plan import PlannedSAE, planned_saes
from chronosae.pipeline.prepare import register, resolve_subject
from chronosae.pipeline.reporter import Reporter
from chronosae.pipeline.summary import Summary
from chronosae.report import write_notes
from chronosae.subject import Subject, SubjectInfo, inspect_subject


@dataclass(frozen=True)
class Job:
    """A run folder, what is to be evaluated in it, and what is missing for that."""

    folder: Path
    cfg: RunConfig
    subject: SubjectConfig
    info: SubjectInfo
    planned: dict[str, PlannedSAE]
    core: bool
    chosen: list[Evaluation]
    lacking: dict[str, list[Missing]]


def plan_job(
    folder: Path,
    names: Sequence[str],
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str | None = None,
) -> Job:
    """What `chronosae eval` would do, checked without computing anything.

    Arguments:
        names: evaluations, `core` among them.
        overrides: `evals.NAME.KEY=VALUE`, on top of the run's own configuration.
        only: autoencoders; all when empty.

    Raises:
        UserError: `folder` holds no complete run, or an option is wrong.
    """
    if not (folder / files.FINAL).is_file():
        raise UserError(f"{folder}: holds no complete run (no {files.FINAL}); finish it with --resume first")
    for override in overrides:
        if not override.startswith("evals."):
            raise UserError(f"--set {override}: the run is finished, so only keys under evals can be set")
    register()
    cfg = load_config(folder / files.CONFIG, overrides)
    if device is not None:
        cfg = cfg.model_copy(update={"subject": cfg.subject.model_copy(update={"device": device})})
    saved = files.read_json(folder / files.FINAL)["saes"]
    planned = {
        sae.name: sae for sae in planned_saes(cfg) if (folder / "saes" / sae.name).is_dir() and sae.name in saved
    }
    unknown = [name for name in only if name not in planned]
    if unknown:
        raise UserError(f"--sae {unknown[0]}: the run has {', '.join(planned) or 'no trained autoencoder'}")
    planned = {name: sae for name, sae in planned.items() if not only or name in only}
    if not planned:
        raise UserError(f"{folder}: holds no trained autoencoder")
    subject = resolve_subject(cfg.subject)
    info = inspect_subject(subject)
    said = [override.partition("=")[0] for override in overrides]
    chosen = choose(cfg, [name for name in names if name != "core"], said)
    d_sae = {name: int(sae.options.d_sae) for name, sae in planned.items()}
    lacking = missing(chosen, cfg, info, folder, d_sae)
    return Job(folder, cfg, subject, info, planned, "core" in names, chosen, lacking)


def evaluate_run(
    job: Job, reporter: Reporter | None = None, cache_dir: Path | None = None, skip_missing: bool = False
) -> dict[str, Any]:
    """Evaluate, write one JSON a result, and bring `final_info.json` and `notes.md` up to date; returns the former.

    Arguments:
        skip_missing: leave out the evaluations that lack something, with a line each, instead of refusing.

    Raises:
        UserError: something is missing, or the subject isn't the one that the run was trained on.
    """
    reporter = reporter or Reporter()
    chosen = job.chosen
    if skip_missing:
        for name, lacks in job.lacking.items():
            reporter.note(f"{name} is left out: " + " | ".join(lack.line() for lack in lacks))
        chosen = [one for one in chosen if one.name not in job.lacking]
    else:
        require(job.lacking)
    with reporter.phase("loading the subject"):
        subject = Subject.load(job.subject, name=job.cfg.subject.model)
    info = files.read_json(job.folder / files.FINAL)
    if info["subject"]["fingerprint"] != subject.fingerprint:
        raise UserError(
            f"{job.folder}: was trained on other weights or another tokenizer than {job.cfg.subject.model} holds now"
        )
    saes = {name: load(job.folder / "saes" / name, subject.device) for name in job.planned}
    total = Summary(info, job.folder)
    again = [f"{one.name} at " for one in chosen] + ([sae.site for sae in job.planned.values()] if job.core else [])
    total.forget(tuple(f"not_evaluated: {what}" for what in again))
    if job.core:
        results, raised = evaluate_core_of(job.cfg, job.planned, subject, saes, job.folder, reporter)
        total.keep_core(results)
        total.flag(raised)
    sites = list(by_site(saes, {name: sae.site for name, sae in job.planned.items()}))
    raised = run_evaluations(
        chosen,
        job.cfg,
        subject,
        sites,
        job.folder,
        lambda name: _provenance(job, subject, name),
        reporter,
        total,
        cache_dir,
    )
    total.flag(raised)
    write_notes(job.folder)
    return info


def _provenance(job: Job, subject: Subject, name: str) -> Provenance:
    return provenance_of(job.cfg, job.cfg.steps * job.cfg.training.batch_tokens, subject, job.planned[name])
