"""The evaluations beside core: which are asked for, what they miss, and their run over the autoencoders of a site."""

import os
import shutil
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae import world
from chronosae.autoencoders import Autoencoder
from chronosae.config import RunConfig, UserError
from chronosae.evals import EVALUATIONS, Evaluation, Provenance, Workbench, write_result
from chronosae.evals.acts_cache import ActivationCache
from chronosae.evals.preflight import Missing, Setting
from chronosae.pipeline.reporter import Reporter
from chronosae.pipeline.summary import Summary
from chronosae.subject import Subject, SubjectInfo

LEAST_DISK = 2**30
"""Bytes that must be free: results and a first data set of activations."""


def choose(cfg: RunConfig, names: Sequence[str] | None = None, said: Sequence[str] | None = None) -> list[Evaluation]:
    """The evaluations called `names` (absent: those that `cfg` asks for), with the options that `cfg` gives them.

    Arguments:
        said: keys (`evals.autointerp.base_url`) that the caller gave himself, where `cfg` may be a stranger's: of
            what says what is sent where (`Evaluation.outward`), `cfg` counts for these alone.

    Raises:
        UserError: an unknown name, an unknown key or a bad value.
    """
    given = {name: getattr(cfg.evals, name) for name in EVALUATIONS}
    if said is not None:
        given = {name: _own(name, options, said) for name, options in given.items()}
    wanted = [name for name, options in given.items() if options is not None] if names is None else list(names)
    return [EVALUATIONS.find(name).read(given.get(name) or {}) for name in wanted]


def _own(name: str, options: Mapping[str, Any] | None, said: Sequence[str]) -> dict[str, Any] | None:
    if not options:
        return None if options is None else {}
    theirs = {key for key in EVALUATIONS.find(name).outward if f"evals.{name}.{key}" not in said}
    return {key: value for key, value in options.items() if key not in theirs}


def missing(
    chosen: Sequence[Evaluation], cfg: RunConfig, info: SubjectInfo | None, folder: Path, d_sae: Mapping[str, int]
) -> dict[str, list[Missing]]:
    """Everything that is missing, by evaluation; nothing is computed. Evaluations that lack nothing aren't in it."""
    world.register_evaluation_data()
    setting = Setting(cfg.subject.model, info, cfg.subject.device, dict(d_sae))
    found = {one.name: one.preflight(setting) for one in chosen}
    free = shutil.disk_usage(next(p for p in (folder, *folder.resolve().parents) if p.exists())).free
    if chosen and free < LEAST_DISK:
        disk = Missing("disk", f"{free / 1e9:.1f} GB are free under {folder}", "free some, or use another folder")
        found = {name: [*lacks, disk] for name, lacks in found.items()}
    needed, have = _memory_needed(info, d_sae), _memory()
    if chosen and have is not None and needed > have:
        memory = Missing(
            "memory",
            f"about {needed / 1e9:.1f} GB are needed and {have / 1e9:.1f} GB are there",
            "use a larger machine",
        )
        found = {name: [*lacks, memory] for name, lacks in found.items()}
    return {name: lacks for name, lacks in found.items() if lacks}


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
class Site:
    """The autoencoders at one site."""

    name: str
    saes: Mapping[str, Autoencoder]


def run_evaluations(
    chosen: Sequence[Evaluation],
    cfg: RunConfig,
    subject: Subject,
    sites: Sequence[Site],
    folder: Path,
    provenance: Callable[[str], Provenance],
    reporter: Reporter,
    summary: Summary,
    cache_dir: Path | None = None,
) -> list[str]:
    """Evaluate; returns a flag for every evaluation that couldn't be done at a site.

    Each result is written as soon as it is there: what goes wrong later, or an interruption, loses nothing. An
    evaluation that breaks leaves its traceback in `evals/NAME/error.txt`, and the next one begins.

    Arguments:
        folder: the run folder; results go to `evals/NAME/SAE_eval_results.json` in it.
        provenance: of each autoencoder by name.
        summary: told of each evaluation's results once they are written, and of those that there aren't any more.
        cache_dir: where activations of data sets are kept; a folder in the run's, gone afterwards, when absent.
    """
    world.register_evaluation_data()
    home = folder / "evals"
    home.mkdir(parents=True, exist_ok=True)
    passing = None if cache_dir else Path(tempfile.mkdtemp(dir=home, prefix="cache-"))
    try:
        cache = ActivationCache(cache_dir or passing)
        return [
            flag
            for site in sites
            for one in chosen
            if (flag := _evaluate(one, cfg, subject, site, home, provenance, reporter, summary, cache))
        ]
    finally:
        if passing is not None:
            shutil.rmtree(passing, ignore_errors=True)


def _evaluate(
    one: Evaluation,
    cfg: RunConfig,
    subject: Subject,
    site: Site,
    home: Path,
    provenance: Callable[[str], Provenance],
    reporter: Reporter,
    summary: Summary,
    cache: ActivationCache,
) -> str | None:
    """One evaluation at one site; a flag where it couldn't be done."""
    place, start = home / one.name, time.perf_counter()
    try:
        with reporter.evaluation(f"{one.name} at {site.name}") as progress:
            bench = Workbench(
                subject,
                site.name,
                seed=cfg.seed,
                cache=cache,
                prepend_bos=cfg.activations.prepend_bos,
                exclude_special=cfg.activations.exclude_special,
                progress=progress,
                keep=home,
            )
            found = one.run(bench, site.saes)
    except Exception as error:
        # Hours of training and the other evaluations must not be lost to whatever went wrong here.
        said = str(error)
        if not isinstance(error, UserError):
            place.mkdir(exist_ok=True)
            (place / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            said = f"{type(error).__name__}: {said.splitlines()[0] if said else ''} (see evals/{one.name}/error.txt)"
        for name in site.saes:
            (place / _file(name)).unlink(missing_ok=True)
        summary.drop(one.name, site.saes)
        reporter.note(f"{one.name} at {site.name}: not evaluated: {said}")
        return f"not_evaluated: {one.name} at {site.name}: {said}"
    seconds, eval_id = time.perf_counter() - start, str(uuid.uuid4())
    found = {name: result if result.wall_seconds else result.after(seconds) for name, result in found.items()}
    for name, result in found.items():
        sae, origin = site.saes[name], provenance(name)
        write_result(place / _file(name), one, name, sae, site.name, result, origin, eval_id)
    summary.keep(one.name, found)
    return None


def _file(name: str) -> str:
    return f"{name}_eval_results.json"


def all_names() -> list[str]:
    """Every evaluation, core included."""
    return ["core", *EVALUATIONS]


def parse_names(text: str) -> tuple[list[str], bool]:
    """`core,unlearning` or `all`, as names and whether it was `all`.

    Raises:
        UserError: an unknown name.
    """
    if text == "all":
        return all_names(), True
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    unknown = [name for name in names if name not in all_names()]
    if unknown or not names:
        raise UserError(f"--evals: {unknown[0] if unknown else text!r} isn't one of all, {', '.join(all_names())}")
    return list(dict.fromkeys(names)), False


def by_site(saes: Mapping[str, Autoencoder], site_of: Mapping[str, str]) -> Iterator[Site]:
    """The autoencoders grouped by site, in their order."""
    for site in dict.fromkeys(site_of[name] for name in saes):
        yield Site(site, {name: sae for name, sae in saes.items() if site_of[name] == site})
