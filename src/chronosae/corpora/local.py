"""A local .txt, .jsonl or .parquet file, or a folder of them, as a source."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from chronosae.config import UserError
from chronosae.corpora.readers import readers

SUFFIXES = (".jsonl", ".parquet", ".txt")
_NOT_TEXT = ("license", "licence", "readme", "copying", "notice")


def is_local(path: str) -> bool:
    """Whether `path` means a file or folder here, existing or misspelt, and not a Hugging Face name."""
    return (
        Path(path).expanduser().exists()
        or path.startswith((".", "/", "~"))
        or path.endswith(("/", *SUFFIXES))
        or path.count("/") > 1
        or "\\" in path
    )


class LocalSource:
    """Documents of local files, in the order of their sorted paths.

    Which documents come out depends on the files' contents only; `documents(start)` reads again from the top and
    passes over the first `start`, so it is exact whatever the format.

    Raises:
        UserError: the path doesn't exist, can't be read, or has no file of a legal suffix.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str,
        text_field: str = "text",
        separator: str | None = "\n\n",
        key: str = "corpus.path",
    ) -> None:
        self.name = name
        if separator == "":
            raise UserError(f"{key.removesuffix('path')}separator is empty; use null to make each file one document")
        self._reading = {"text_field": text_field, "separator": separator}
        self._readers = readers(text_field, separator)
        self._root = Path(path).expanduser()
        self.files = _files(self._root, key)

    def documents(self, start: int = 0) -> Iterator[str]:
        """The documents of one pass, beginning with number `start`; blank ones included."""
        return islice(self._all(), start, None)

    def _all(self) -> Iterator[str]:
        for file in self.files:
            try:
                yield from self._readers[file.suffix.lower()](file)
            except OSError as error:
                raise UserError(f"{file}: can't be read ({error.strerror or error})") from None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over how the files are read and over their names, sizes and contents."""
        digest = hashlib.sha256(json.dumps(self._reading, sort_keys=True).encode())
        for file in self.files:
            relative = file.relative_to(self._root).as_posix() if self._root.is_dir() else file.name
            digest.update(f"\0{relative}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def _files(root: Path, key: str) -> list[Path]:
    if not root.exists():
        raise UserError(f"{key}: {root}: no such file or folder")
    if not root.is_dir():
        if root.suffix.lower() not in SUFFIXES:
            raise UserError(f"{key}: {root}: unknown kind of file; legal suffixes: {', '.join(SUFFIXES)}")
        return [root]
    files = sorted(file for file in root.rglob("*") if _is_corpus(file, root))
    if not files:
        raise UserError(f"{key}: {root}: the folder has no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    return files


def _is_corpus(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.stem.lower() not in _NOT_TEXT and file.is_file()
