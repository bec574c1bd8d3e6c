"""Data of one kind by name: registered sets, local files, hub sets; rows of files, and what is missing or damaged."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from chronosae.config import UserError
from chronosae.evals.evaluation import Missing

TEST_SHARE = 5
"""One row in so many is for the test where a file holds both."""

DataT = TypeVar("DataT")
Reader = Callable[[str], DataT]
"""Split (`train` or `test`) -> the data."""


class Providers(Generic[DataT]):
    """Where data of one kind come from.

    Args:
        kind: for messages: `labelled texts`.
        read_local: reads a file or folder and a split.
        shape: what a local file must look like, for messages.
    """

    def __init__(self, kind: str, read_local: Callable[[Path, str], DataT], shape: str) -> None:
        self.kind, self.shape = kind, shape
        self._read_local = read_local
        self._registered: dict[str, Reader[DataT]] = {}
        self._hub: dict[str, tuple[Reader[DataT], Callable[[], str | None]]] = {}

    def register(self, name: str, read: Reader[DataT]) -> None:
        """Make `name` stand for data that need neither file nor network."""
        self._registered[name] = read

    def register_hub(self, name: str, read: Reader[DataT], problem: Callable[[], str | None]) -> None:
        """Make `name` stand for a hub data set; `problem` says in a phrase why it can't be read, or None."""
        self._hub[name] = (read, problem)

    @property
    def names(self) -> list[str]:
        """What can be named, local files apart."""
        return sorted([*self._registered, *self._hub])

    def label(self, name: str) -> str:
        """What randomness may depend on: a registered or hub name as it is; of a path its last part, without ending.

        So a file gives the same numbers from wherever it is named.
        """
        return name if name in self._registered or name in self._hub else Path(name).expanduser().absolute().stem

    def missing(
        self, name: str, key: str, lacking: Callable[[DataT], str | None] = lambda data: None
    ) -> Missing | None:
        """What is wrong with `name`, given under the configuration key `key`; None when it can be read.

        Local data are read for it: they are small, and a damaged row should be told before hours of work. `lacking`
        says in a phrase what an evaluation needs and such data don't have.
        """
        unknown = self._unknown(name, key)
        if unknown is not None or name in self._registered or name in self._hub:
            return unknown
        try:
            parts = [self._read_local(Path(name).expanduser(), split) for split in ("train", "test")]
            problem = next((phrase for part in parts if (phrase := lacking(part)) is not None), None)
        except UserError as error:
            problem = str(error)
        if problem is None:
            return None
        return Missing(f"{self.kind} {name}", problem, f"correct it, or give another with --set {key}=PATH")

    def _unknown(self, name: str, key: str) -> Missing | None:
        if name in self._registered:
            return None
        how = f"give a local path with --set {key}=PATH ({self.shape})"
        if name in self._hub:
            problem = self._hub[name][1]()
            return None if problem is None else Missing(f"{self.kind} {name}", problem, how)
        if Path(name).expanduser().exists():
            return None
        known = f"neither a local path nor one of {', '.join(self.names)}" if self.names else "no such local path"
        return Missing(f"{self.kind} {name}", known, how)

    def read(self, name: str, split: str, key: str) -> DataT:
        """The data of one split.

        Raises:
            UserError: `missing` would have said so, or the file is damaged; the row is named.
        """
        missing = self._unknown(name, key)
        if missing is not None:
            raise UserError(f"{key}: {missing.line()}")
        if name in self._registered:
            return self._registered[name](split)
        if name in self._hub:
            return self._hub[name][0](split)
        return self._read_local(Path(name).expanduser(), split)


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and object of each non-empty line.

    Raises:
        UserError: the file can't be read, or a line is no UTF-8 JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not UTF-8 text; convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: is not JSON ({error.msg}); every line must be an object") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: is not an object; every line must be one")
    return row


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each row of a .csv without a header.

    Raises:
        UserError: the file can't be read as UTF-8 .csv.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if row:
                    yield f"{path}:{number}", row
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a UTF-8 .csv file ({error})") from None


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must be a non-empty string.

    Raises:
        UserError: it is missing or something else.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {field!r} must be a non-empty text; the row has {', '.join(row) or 'nothing'}")
    return value


def split_file(path: Path, split: str) -> tuple[Path, bool]:
    """The file of `split`, and whether it holds that split alone: a folder holds train.jsonl and test.jsonl.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return path, False
    file = path / f"{split}.jsonl"
    if not file.is_file():
        raise UserError(f"{file}: no such file; a folder of labelled texts holds train.jsonl and test.jsonl")
    return file, True


def in_split(text: str, split: str) -> bool:
    """Which rows of a file that holds both splits belong to `split`: by a hash of the text, so no text is in both."""
    test = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % TEST_SHARE == 0
    return test == (split == "test")
