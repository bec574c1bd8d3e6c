"""From a configuration to things that are known to exist: everything that can fail early, fails here.

The run folder too: claimed before any work, never mixed with another run.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from chronosae import world
from chronosae.config import RunConfig, SubjectConfig, UserError
from chronosae.config.files import explain_os_error
from chronosae.config.run_folder import OWN, RUN
from chronosae.corpora import open_sources
from chronosae.pipeline.plan import Plan, make_plan
from chronosae.subject import SubjectInfo, inspect_subject
from chronosae.training.log import require_extras

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Prepared:
    """A configuration that has been checked against the machine, the subject and the text."""

    cfg: RunConfig
    subject: SubjectConfig
    """The subject with `world` resolved to the folder of the embedded model."""
    info: SubjectInfo | None
    plan: Plan


def prepare(cfg: RunConfig, *, dry: bool = False) -> Prepared:
    """Check the configuration, the extras, the subject, its sites, and that the text can be opened.

    With `dry`, a Hugging Face name that can't be reached is noted instead of refused, so that a recipe can be checked
    on a machine without network.

    Raises:
        UserError: the first thing that is wrong.
    """
    register()
    subject = resolve_subject(cfg.subject)
    require_extras(cfg.logging)
    info, note = _inspect(subject, dry)
    plan = make_plan(cfg, info)
    if note:
        plan.notes.append(note)
    if not (dry and info is None):
        open_sources(cfg.corpus)
    return Prepared(cfg, subject, info, plan)


def register() -> None:
    """Make the embedded world known by name: its text, and its data for evaluations."""
    world.register()


def resolve_subject(subject: SubjectConfig) -> SubjectConfig:
    """`world` becomes the (verified) folder of the embedded model; anything else stays."""
    if subject.model != "world":
        return subject
    return subject.model_copy(update={"model": str(world.model_folder())})


def _inspect(subject: SubjectConfig, dry: bool) -> tuple[SubjectInfo | None, str | None]:
    try:
        return inspect_subject(subject), None
    except UserError as error:
        on_hub = not Path(subject.model).exists() and HUB_NAME.fullmatch(subject.model)
        if dry and on_hub:
            return None, str(error)
        raise


def claim(folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Check that `folder` can become ours (nothing in it changes yet); True when it holds a run to continue.

    Raises:
        UserError: it holds a run and neither `--resume` nor `--overwrite` was given, holds other things, or can't be
            written.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out-dir {folder}: is a file; name a folder")
    if (folder / RUN).is_file():
        if resume:
            return True
        if not overwrite:
            raise UserError(f"--out-dir {folder}: holds a run already; add --resume to continue it or --overwrite")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out-dir {folder}: is not empty and holds no run; name another folder")
    elif resume:
        raise UserError(f"--out-dir {folder}: holds no run to resume")
    _make_writable(folder)
    return False


def clear(folder: Path) -> None:
    """Remove the run in `folder`, and only what a run writes."""
    for name in OWN:
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)


def remove_if_empty(folder: Path) -> None:
    """Remove the folder when nothing is in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _make_writable(folder: Path) -> None:
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out-dir {folder}: {explain_os_error(error)}") from None


def require_space(folder: Path, needed: int) -> None:
    """`UserError` when the disk under `folder` has less than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"--out-dir {folder}: the run needs about {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free;"
            " free some, or name a folder on another disk"
        )
