"""The evaluations beside core: which are asked for, what they miss, and their run over the autoencoders of a site."""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae import world
from chronosae.autoencoders import Autoencoder
from chronosae.config import RunConfig, UserError
from chronosae.evals import EvalResult, Evaluation, Provenance, Workbench, write_result
from chronosae.evals.acts_cache import ActivationCache
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.registry import evaluation_names, find_evaluation, read_eval_options
from chronosae.pipeline.reporter import Reporter
from chronosae.subject import Subject, SubjectInfo

LEAST_DISK = 2**30
"""Bytes that must be free: results and a first data set of activations."""


@dataclass(frozen=True)
class Chosen:
    """One evaluation and its validated options."""

    evaluation: Evaluation[Any]
    options: EvalOptions

    @property
    def name(self) -> str:
        """Key in the configuration and in results."""
        return self.evaluation.name


def choose(cfg: RunConfig, names: Sequence[str] | None = None) -> list[Chosen]:
    """The evaluations called `names` (absent: those that `cfg` asks for), with the options that `cfg` gives them.

    Raises:
        UserError: an unknown name, an unknown key or a bad value.
    """
    given = {name: getattr(cfg.evals, name) for name in evaluation_names()}
    wanted = [name for name, options in given.items() if options is not None] if names is None else list(names)
    return [Chosen(find_evaluation(name), read_eval_options(name, given.get(name) or {})) for name in wanted]


def missing(
    chosen: Sequence[Chosen], cfg: RunConfig, info: SubjectInfo | None, folder: Path, d_sae: Mapping[str, int]
) -> dict[str, list[Missing]]:
    """Everything that is missing, by evaluation; nothing is computed. Evaluations that lack nothing aren't in it."""
    world.register_evaluation_data()
    setting = Setting(cfg.subject.model, info, cfg.subject.device, dict(d_sae))
    found = {one.name: one.evaluation.preflight(one.options, setting) for one in chosen}
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
        lines = {lack.line(): None for lacks in lacking.values() for lack in lacks}
        raise UserError(f"{', '.join(lacking)} can't run: " + " | ".join(lines))


@dataclass(frozen=True)
class Site:
    """The autoencoders at one site."""

    name: str
    saes: Mapping[str, Autoencoder]


def run_evaluations(
    chosen: Sequence[Chosen],
    cfg: RunConfig,
    subject: Subject,
    sites: Sequence[Site],
    folder: Path,
    provenance: Callable[[str], Provenance],
    reporter: Reporter,
    keep: Callable[[str, Mapping[str, EvalResult]], None],
    cache_dir: Path | None = None,
) -> list[str]:
    """Evaluate; returns a flag for every evaluation that couldn't be done at a site.

    Each result is written as soon as it is there: what goes wrong later, or an interruption, loses nothing.

    Arguments:
        folder: the run folder; results go to `evals/NAME/SAE_eval_results.json` in it.
        provenance: of each autoencoder by name.
        keep: called with an evaluation's name and its results by autoencoder, once they are written.
        cache_dir: where activations of data sets are kept; `evals/cache` in the run folder when absent.
    """
    world.register_evaluation_data()
    flags: list[str] = []
    cache = ActivationCache(cache_dir or folder / "evals" / "cache")
    for site in sites:
        for one in chosen:
            with reporter.evaluation(f"{one.name} at {site.name}") as progress:
                bench = Workbench(
                    subject,
                    site.name,
                    seed=cfg.seed,
                    cache=cache,
                    prepend_bos=cfg.activations.prepend_bos,
                    exclude_special=cfg.activations.exclude_special,
                    progress=progress,
                )
                start = time.perf_counter()
                try:
                    found = one.evaluation.run(one.options, bench, site.saes)
                except UserError as error:
                    flags.append(f"not_evaluated: {one.name} at {site.name}: {error}")
                    reporter.note(f"{one.name} at {site.name}: not evaluated: {error}")
                    continue
            seconds, eval_id = time.perf_counter() - start, str(uuid.uuid4())
            found = {name: result if result.wall_seconds else result.after(seconds) for name, result in found.items()}
            for name, result in found.items():
                path = folder / "evals" / one.name / f"{name}_eval_results.json"
                write_result(
                    path,
                    one.evaluation,
                    name,
                    site.saes[name],
                    site.name,
                    result,
                    one.options,
                    provenance(name),
                    eval_id,
                )
            keep(one.name, found)
    if cache_dir is None:
        shutil.rmtree(folder / "evals" / "cache", ignore_errors=True)
    return flags


def all_names() -> list[str]:
    """Every evaluation, core included."""
    return ["core", *evaluation_names()]


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
