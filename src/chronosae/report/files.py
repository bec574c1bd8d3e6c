"""Reading the files of a run folder: JSON without NaN, and errors that name the file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chronosae.config import UserError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; NaN and Infinity, which JSON doesn't have, read as None.

    Raises:
        UserError: naming `path`: missing, unreadable, not JSON, or JSON that isn't an object.
    """
    return _as_object(_parse(read_text(path), str(path)), str(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a .jsonl file, one a line; blank lines are skipped.

    Raises:
        UserError: naming `path` and the line.
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    wheres = [(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    return [_as_object(_parse(line, where), where) for where, line in wheres]


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


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda constant: None)
    except (json.JSONDecodeError, RecursionError):
        raise UserError(f"{where}: damaged, not valid JSON; restore it or run again with --overwrite") from None


def _as_object(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{where}: damaged, expected a JSON object and found {type(data).__name__}")
    return data


def number(value: Any) -> float | None:
    """`value` when it is a finite number (True isn't one), else None: what is undefined never becomes a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:  # an integer beyond float's range
        return None
    return value if math.isfinite(value) else None


def integer(value: Any) -> int | None:
    """`value` as an int when it is a whole finite number, else None."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def mapping(value: Any) -> dict[str, Any]:
    """`value` when it is a mapping, else an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def texts(value: Any) -> tuple[str, ...]:
    """The strings in a list, or none."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
