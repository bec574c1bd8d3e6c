"""The run folder: claimed before any work, written in whole files, never mixed with another run."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from chronosae.config import UserError

CONFIG, RUN, METRICS, FINAL, NOTES = "config.yaml", "run.json", "metrics.jsonl", "final_info.json", "notes.md"
CHECKPOINT = Path("checkpoints") / "latest.pt"
# What a run folder holds; --overwrite removes these and nothing else.
FOLDERS = ("saes", "evals", "checkpoints", "activations", "figures", "tensorboard", "wandb")
OWN = (CONFIG, RUN, METRICS, FINAL, NOTES, *FOLDERS)


def is_run(folder: Path) -> bool:
    """The folder holds a run, finished or not."""
    return (folder / RUN).is_file()


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
    if is_run(folder):
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


def explain_os_error(error: OSError) -> str:
    """What an operating-system error means for someone who wanted to write a file."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space or name a folder on another disk",
        errno.EDQUOT: "the disk quota is used up; free some space or name a folder on another disk",
        errno.EACCES: "can't be written (permission denied); name a folder of yours",
        errno.EPERM: "can't be written (not permitted); name a folder of yours",
        errno.EROFS: "is on a read-only file system; name a folder elsewhere",
        errno.ENOTDIR: "lies below a file, not a folder",
        errno.ENAMETOOLONG: "the name is too long",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error))


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all; NaN and Infinity are refused."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Parsed JSON; `UserError` naming the file when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path}: damaged, not valid JSON") from None
