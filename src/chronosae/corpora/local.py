"""A local .txt, .jsonl or .parquet file, or a folder of them, as a source.

Files are streamed: none is ever held whole unless it is one document.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from chronosae.config import UserError

SUFFIXES = (".jsonl", ".parquet", ".txt")
_CHUNK = 1 << 20
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


def text_documents(path: Path, separator: str | None) -> Iterator[str]:
    """Pieces of a UTF-8 text file between `separator`s, or the whole file as one. CRLF counts as a newline.

    Raises:
        UserError: the file isn't UTF-8; the byte is named.
    """
    if separator is None:
        yield "".join(_decoded(path))
        return
    overlap = len(separator) - 1
    held: list[str] = []  # what follows the last separator; joined only when the next one shows up
    tail = ""  # its last characters: a separator may lie across two chunks
    for text in _decoded(path):
        if separator not in tail + text:
            held.append(text)
            tail = (tail + text)[-overlap:] if overlap else ""
            continue
        *whole, rest = ("".join(held) + text).split(separator)
        yield from whole
        held, tail = [rest], rest[-overlap:] if overlap else ""
    yield "".join(held)


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, pending_cr, first = 0, "", True
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            waiting = len(decoder.getstate()[0])
            try:
                text = pending_cr + decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise not_utf8(path, offset - waiting + error.start) from None
            offset += len(chunk)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            # A CR at the end of a chunk may be half of a CRLF.
            pending_cr = "\r" if chunk and text.endswith("\r") else ""
            if text := text.removesuffix(pending_cr).replace("\r\n", "\n"):
                yield text
            if not chunk:
                return


def not_utf8(path: Path, offset: int) -> UserError:
    """The error for a byte that is no UTF-8."""
    return UserError(f"{path}: byte {offset} is not UTF-8 text; convert the file to UTF-8")


def jsonl_documents(path: Path, text_field: str) -> Iterator[str]:
    """`text_field` of every line of a .jsonl file; empty lines are passed over.

    Raises:
        UserError: a line isn't UTF-8 or no JSON object, or its text is missing or no string; the line is named.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(path, offset + error.start) from None
            offset += len(line)
            if text.strip():
                yield text_of(_row(text, f"{path}:{number}"), text_field, f"{path}:{number}")


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({getattr(error, 'msg', None) or error})") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: expected an object such as {{"text": "..."}}, got {type(row).__name__}')
    return row


def text_of(row: Mapping[str, Any], text_field: str, where: str) -> str:
    """The text in a row, or a `UserError` that lists the fields there are."""
    if text_field not in row:
        legal = ", ".join(map(str, row)) or "none at all"
        raise UserError(f"{where}: no field {text_field!r}; fields here: {legal} (set text_field)")
    text = row[text_field]
    if not isinstance(text, str):
        raise UserError(f"{where}: field {text_field!r} holds {type(text).__name__}, not text (set text_field)")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: field {text_field!r} holds half of a surrogate pair, which is no text")
    return text


def parquet_documents(path: Path, text_field: str) -> Iterator[str]:
    """`text_field` of every row of a parquet file, read in small batches.

    Raises:
        UserError: the file isn't parquet, is damaged, lacks the column, or the column is no text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_column(file.schema_arrow, text_field, path)
            row = 0
            for batch in file.iter_batches(batch_size=256, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    yield text_of({text_field: text}, text_field, f"{path}, row {row}")
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as parquet ({str(error).splitlines()[0]})") from None


def _check_column(schema: Any, text_field: str, path: Path) -> None:
    import pyarrow.types as types

    if text_field not in schema.names:
        raise UserError(f"{path}: no column {text_field!r}; columns here: {', '.join(schema.names)} (set text_field)")
    kind = schema.field(text_field).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(f"{path}: column {text_field!r} holds {kind}, not text (set text_field)")


Reader = Callable[[Path], Iterator[str]]


def readers(text_field: str, separator: str | None) -> dict[str, Reader]:
    """File suffix -> reader."""
    return {
        ".jsonl": lambda path: jsonl_documents(path, text_field),
        ".parquet": lambda path: parquet_documents(path, text_field),
        ".txt": lambda path: text_documents(path, separator),
    }
