"""A Hugging Face data set as a source, streamed."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from chronosae.config import UserError
from chronosae.corpora.local import text_of


class HubSource:
    """Rows of one split of a Hugging Face data set. Code that comes with a data set is never run.

    Raises:
        UserError: the data set can't be reached, or has no such subset, split or field.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str,
        subset: str | None = None,
        split: str = "train",
        text_field: str = "text",
        key: str = "corpus.path",
    ) -> None:
        self.name = name
        self._path, self._subset, self._split, self._text_field, self._key = path, subset, split, text_field, key
        self._builder = self._load_builder()
        self._dataset = self._open_split()

    def documents(self, start: int = 0) -> Iterator[str]:
        """The texts of one pass, beginning with row `start`; blank ones included."""
        rows = iter(self._dataset.skip(start))
        number = start
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # network, decompression, Arrow: any may end a stream
                raise UserError(
                    f"{self._key}: {self._path}: reading row {number} failed ({_first_line(error)}); run again with"
                    " --resume, or give a local copy"
                ) from error
            if row is None:
                return
            yield text_of(row, self._text_field, f"{self._path}, row {number}")
            number += 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over name, revision, subset, split and text field."""
        parts = [self._path, self._builder.hash, self._builder.config.name, self._split, self._text_field]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _load_builder(self) -> Any:
        import datasets

        try:
            return datasets.load_dataset_builder(self._path, self._subset)
        except ValueError as error:  # a subset that doesn't exist; the message lists those that do
            raise UserError(
                f"{self._key.removesuffix('path')}subset {self._subset!r} of {self._path}: {_first_line(error)}"
            ) from error
        except Exception as error:  # offline, not found, gated, script-only ... the remedy is the same
            raise UserError(
                f"{self._key}: {self._path!r} is neither a local path nor reachable on the Hugging Face Hub"
                f" ({type(error).__name__}); name a corpus of your own with --plugin FILE, or give a local file or"
                f" folder with --set {self._key}=PATH"
            ) from error

    def _open_split(self) -> Any:
        try:
            return self._builder.as_streaming_dataset(split=self._split)
        except ValueError as error:  # the message lists the legal splits
            raise UserError(
                f"{self._key.removesuffix('path')}split {self._split!r} of {self._path}: {_first_line(error)}"
            ) from error
        except Exception as error:
            raise UserError(
                f"{self._key}: {self._path!r} can't be streamed ({_first_line(error)}); give a local file or folder"
                f" with --set {self._key}=PATH"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
