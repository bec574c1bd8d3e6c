"""The evaluation stage of a run, and `chronosae eval`: which are asked for, what they miss, their results in files."""

import os
import shutil
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae import world
from chronosae.activations import SequenceBatch, heldout_batches
from chronosae.autoencoders import Autoencoder
from chronosae.config import RunConfig, SubjectConfig, UserError, config_sha256, load_config
from chronosae.config import run_folder as files
from chronosae.config.run_folder import EVALS, result_file
from chronosae.evals import EVALUATIONS, EvalResult, Evaluation, Heldout, Missing, Provenance, Setting, Workbench
from chronosae.evals.envelope import result_envelope, write_envelope
from chronosae.evals.workbench import ActivationCache
from chronosae.pipeline.plan import PlannedSAE, planned_saes
from chronosae.pipeline.prepare import register, resolve_subject
from chronosae.pipeline.results import Summary
from chronosae.pipeline.session import Reporter
from chronosae.presets import load
from chronosae.report import write_notes
from chronosae.subject import Subject, SubjectInfo, inspect_subject

LEAST_DISK = 2**30
"""Bytes that must be free: results and a first data set of activations."""


def parse_names(text: str) -> tuple[list[str], bool]:
    """`core,unlearning` or `all`, as names and whether it was `all`.

    Raises:
        UserError: an unknown name.
    """
    if text == "all":
        return EVALUATIONS.names(), True
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    unknown = [name for name in names if name not in EVALUATIONS]
    if unknown or not names:
        raise UserError(f"--evals: {unknown[0] if unknown else text!r} isn't one of all, {', '.join(EVALUATIONS)}")
    return list(dict.fromkeys(names)), False


def choose(cfg: RunConfig, names: Sequence[str] | None = None, said: Sequence[str] = ()) -> list[Evaluation]:
    """The evaluations called `names` (absent: those that `cfg` asks for), with the options that `cfg` gives them.

    Args:
        names: given where `cfg` may be a stranger's: then of what says what is sent where (`Evaluation.outward`), its
            options count only if the caller gave them himself.
        said: the keys that the caller gave himself, such as `evals.autointerp.base_url`.

    Raises:
        UserError: an unknown name, an unknown key or a bad value.
    """
    given = cfg.evals.options
    for name in given if names is None else [key.split(".")[1] for key in said]:
        EVALUATIONS.require(name, where=f"config: evals.{name}")
    if names is None:
        return [EVALUATIONS[name].read(given[name] or {}) for name in EVALUATIONS if given.get(name) is not None]
    return [_with_own_options(EVALUATIONS.find(name), given.get(name) or {}, said) for name in names]


def _with_own_options(evaluation: type[Evaluation], options: Mapping[str, Any], said: Sequence[str]) -> Evaluation:
    theirs = {key for key in evaluation.outward if f"evals.{evaluation.name}.{key}" not in said}
    return evaluation.read({key: value for key, value in options.items() if key not in theirs})


def missing(
    chosen: Sequence[Evaluation], cfg: RunConfig, info: SubjectInfo | None, folder: Path, d_sae: Mapping[str, int]
) -> dict[str, list[Missing]]:
    """Everything that is missing, by evaluation; nothing is computed. Evaluations that lack nothing aren't in it."""
    _know_data_of(chosen)
    setting = Setting(cfg.subject.model, info, cfg.subject.device, dict(d_sae))
    machine: list[Missing] = []
    free = shutil.disk_usage(next(p for p in (folder, *folder.resolve().parents) if p.exists())).free
    if free < LEAST_DISK:
        said = f"{free / 1e9:.1f} GB are free under {folder}"
        machine.append(Missing("disk", said, "free some, or use another folder"))
    needed, have = _memory_needed(info, d_sae), _memory()
    if have is not None and needed > have:
        said = f"about {needed / 1e9:.1f} GB are needed and {have / 1e9:.1f} GB are there"
        machine.append(Missing("memory", said, "use a larger machine"))
    # What reads the run's own text keeps no data sets, and what training can hold it can hold too.
    found = {one.name: [*one.preflight(setting), *([] if one.own_text else machine)] for one in chosen}
    return {name: lacks for name, lacks in found.items() if lacks}


def _know_data_of(chosen: Sequence[Evaluation]) -> None:
    """The embedded world's data sets can be named, by those that don't read the run's own text."""
    if not all(one.own_text for one in chosen):
        world.register_evaluation_data()


def _memory_needed(info: SubjectInfo | None, d_sae: Mapping[str, int]) -> int:
    if info is None:
        return 0
    return 4 * info.n_parameters_estimate + sum(8 * width * info.d_model for width in d_sae.values())


def _memory() -> int | None:
    """Bytes of physical memory; None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def require(lacking: Mapping[str, Sequence[Missing]]) -> None:
    """`UserError` with everything that is missing, at once.

    Raises:
        UserError: something is.
    """
    if lacking:
        raise UserError(f"{', '.join(lacking)} can't run: " + " | ".join(missing_lines(lacking)))


def missing_lines(lacking: Mapping[str, Sequence[Missing]]) -> list[str]:
    """What is missing, each thing once."""
    return list(dict.fromkeys(lack.line() for lacks in lacking.values() for lack in lacks))


@dataclass(frozen=True)
class Stage:
    """Where trained autoencoders are evaluated, at the end of a run or later: both go through here."""

    cfg: RunConfig
    subject: Subject
    planned: Mapping[str, PlannedSAE]
    """The run's autoencoders by name."""
    folder: Path
    """The run folder; results go to `evals/NAME/SAE_eval_results.json` in it."""
    reporter: Reporter
    cache_dir: Path | None = None
    """Where activations of data sets are kept; a folder in the run's, gone afterwards, when absent."""

    def run(
        self, chosen: Sequence[Evaluation], saes: Mapping[str, Autoencoder], summary: Summary | None = None
    ) -> tuple[dict[str, dict[str, EvalResult]], list[str]]:
        """Evaluate; returns results by evaluation and autoencoder, and a flag for every evaluation that couldn't be
        done at a site.

        Each result is written as soon as it is there: what goes wrong later, or an interruption, loses nothing. An
        evaluation that breaks leaves its traceback in `evals/NAME/error.txt`, and the next one begins.

        Args:
            summary: told of each evaluation's results once they are written, and of those that there aren't any more.
        """
        _know_data_of(chosen)
        self._home.mkdir(parents=True, exist_ok=True)
        passing = None if self.cache_dir else Path(tempfile.mkdtemp(dir=self._home, prefix="cache-"))
        results: dict[str, dict[str, EvalResult]] = {one.name: {} for one in chosen}
        flags = []
        try:
            cache = ActivationCache(self.cache_dir or passing)
            for site, at_site in self._by_site(saes):
                for one in chosen:
                    found = self._evaluate(one, site, at_site, cache)
                    if isinstance(found, str):
                        flags.append(f"not_evaluated: {place(one, site)}: {found}")
                    else:
                        results[one.name] |= found
                    if summary is not None:
                        summary.drop(one.name, at_site) if isinstance(found, str) else summary.keep(one.name, found)
        finally:
            if passing is not None:
                shutil.rmtree(passing, ignore_errors=True)
        return results, flags

    @property
    def _home(self) -> Path:
        return self.folder / EVALS

    def _by_site(self, saes: Mapping[str, Autoencoder]) -> Iterator[tuple[str, dict[str, Autoencoder]]]:
        """The autoencoders grouped by site, in their order."""
        for site in dict.fromkeys(self.planned[name].site for name in saes):
            yield site, {name: sae for name, sae in saes.items() if self.planned[name].site == site}

    def _evaluate(
        self, one: Evaluation, site: str, saes: Mapping[str, Autoencoder], cache: ActivationCache
    ) -> dict[str, EvalResult] | str:
        """One evaluation at one site, its files written; or what went wrong."""
        start, home = time.perf_counter(), self._home / one.name
        files = {name: result_file(self.folder, one.name, name) for name in saes}
        try:
            with self.reporter.evaluation(f"{one.name} at {site}") as progress:
                bench = Workbench(
                    self.subject,
                    site,
                    seed=self.cfg.seed,
                    cache=cache,
                    prepend_bos=self.cfg.activations.prepend_bos,
                    exclude_special=self.cfg.activations.exclude_special,
                    progress=progress,
                    heldout=self._heldout(site),
                    keep=self._home,
                )
                found = one.run(bench, saes)
        except Exception as error:
            # Hours of training and the other evaluations must not be lost to whatever went wrong here.
            said = str(error)
            if not isinstance(error, UserError):
                home.mkdir(exist_ok=True)
                (home / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
                first = said.splitlines()[0] if said else ""
                said = f"{type(error).__name__}: {first} (see evals/{one.name}/error.txt)"
            for path in files.values():
                path.unlink(missing_ok=True)
            self.reporter.note(f"{one.name} at {site}: not evaluated: {said}")
            return said
        seconds, eval_id = time.perf_counter() - start, str(uuid.uuid4())
        found = {name: result if result.wall_seconds else result.after(seconds) for name, result in found.items()}
        for name, result in found.items():
            written = result_envelope(one, name, saes[name], site, result, self._provenance(name), eval_id)
            write_envelope(written, files[name])
        return found

    def _heldout(self, site: str) -> Heldout:
        def batches(n_tokens: int, batch_sequences: int) -> Iterator[SequenceBatch]:
            n_sequences = -(-n_tokens // self.cfg.activations.context)
            for batch in heldout_batches(self.cfg, self.subject, n_sequences, batch_sequences, sites=[site]):
                yield batch[site]

        return Heldout(batches, text_name(self.cfg))

    def _provenance(self, name: str) -> Provenance:
        cfg = self.cfg
        return Provenance(
            subject=cfg.subject.model,
            subject_fingerprint=self.subject.fingerprint,
            subject_dtype=cfg.subject.dtype,
            dataset=text_name(cfg),
            config_sha256=config_sha256(cfg),
            seed=self.planned[name].seed,
            device=str(self.subject.device),
            training_tokens=cfg.steps * cfg.training.batch_tokens,
            exclude_special=cfg.activations.exclude_special,
            prepend_bos=cfg.activations.prepend_bos,
        )


def place(one: Evaluation, site: str) -> str:
    """What `not_evaluated` is said of: core's flags carry no name, this one neither."""
    return site if one.name == "core" else f"{one.name} at {site}"


def text_name(cfg: RunConfig) -> str:
    """The training text, for people."""
    return " + ".join(source.name or source.path for source in cfg.corpus.resolved_sources())


@dataclass(frozen=True)
class Job:
    """A run folder, what is to be evaluated in it, and what is missing for that."""

    folder: Path
    cfg: RunConfig
    subject: SubjectConfig
    info: SubjectInfo
    planned: dict[str, PlannedSAE]
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

    Args:
        names: evaluations.
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
    saved = files.read_info(folder).saes
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
    chosen = choose(cfg, names, said)
    d_sae = {name: int(sae.options.d_sae) for name, sae in planned.items()}
    lacking = missing(chosen, cfg, info, folder, d_sae)
    return Job(folder, cfg, subject, info, planned, chosen, lacking)


def evaluate_run(
    job: Job, reporter: Reporter | None = None, cache_dir: Path | None = None, skip_missing: bool = False
) -> dict[str, Any]:
    """Evaluate, write one JSON a result, and bring `final_info.json` and `notes.md` up to date; returns the former.

    Args:
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
    info = files.read_info(job.folder)
    if info.subject.fingerprint != subject.fingerprint:
        raise UserError(
            f"{job.folder}: was trained on other weights or another tokenizer than {job.cfg.subject.model} holds now"
        )
    saes = {name: load(job.folder / "saes" / name, subject.device) for name in job.planned}
    total = Summary(info, job.folder)
    sites = {sae.site for sae in job.planned.values()}
    total.forget(tuple(f"not_evaluated: {beginning}" for one in chosen for beginning in _places(one, sites)))
    _, raised = Stage(job.cfg, subject, job.planned, job.folder, reporter, cache_dir).run(chosen, saes, total)
    total.flag(raised)
    write_notes(job.folder)
    return info.as_json()


def _places(one: Evaluation, sites: Iterable[str]) -> list[str]:
    """How flags begin that an evaluation couldn't be done, wherever it was tried."""
    return [place(one, site) for site in sites] if one.name == "core" else [f"{one.name} at "]
