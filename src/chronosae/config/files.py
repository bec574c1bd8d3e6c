"""Files written whole or not at all, files read or named in an error, and what a failed write means to a person."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chronosae.config.errors import UserError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes `path`'s place when the block ends well, and goes otherwise.

    It reaches the disk first, so that a crash leaves the old file or the new one; and it has a name of its own, so that
    two writers can't mix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as handle:  # Windows flushes only what is open for writing
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all; NaN and Infinity are refused with a ValueError."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """The text in `path`; `UserError` when it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: damaged, not UTF-8 text; restore it or run again with --overwrite") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; NaN and Infinity, which JSON doesn't have, read as None.

    Raises:
        UserError: naming `path`: missing, unreadable, not JSON, or JSON that isn't an object.
    """
    return _object(read_text(path), str(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a .jsonl file, one a line; blank lines are skipped.

    Raises:
        UserError: naming `path` and the line.
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [_object(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=lambda constant: None)
    except (json.JSONDecodeError, RecursionError):
        raise UserError(f"{where}: damaged, not valid JSON; restore it or run again with --overwrite") from None
    if not isinstance(data, dict):
        raise UserError(f"{where}: damaged, expected a JSON object and found {type(data).__name__}")
    return data


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
