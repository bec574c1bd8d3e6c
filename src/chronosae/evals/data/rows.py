"""Rows of local files: .jsonl objects, header-less .csv, with the place of each row for messages."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chronosae.config import UserError

SPLITS = ("train", "test")
TEST_SHARE = 5
"""One row in so many is for the test where a file holds both."""


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
