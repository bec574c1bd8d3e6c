"""Files that are written whole or not at all, and what a failed write means to a person."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
