"""Texts with labels: for a whole text, or for a span of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from chronosae.config import UserError
from chronosae.evals.data.providers import Providers, in_split, jsonl_rows, split_file, text_field


@dataclass(frozen=True)
class LabelledTexts:
    """Rows of one data set. All tuples have one entry a text."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] | None = None
    """Characters that the label speaks of; None when it speaks of the whole text."""
    second: tuple[str, ...] | None = None
    """Another label of the same text, such as the one that is correlated with the first on purpose (SCR)."""
    groups: tuple[str, ...] | None = None
    """What isn't independent of one another (a document, a fact): resampled together. None: each text by itself."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, in alphabetical order."""
        return tuple(sorted(set(self.labels)))

    @property
    def group_ids(self) -> Int[Tensor, " rows"]:
        """Numbers from 0, by first appearance, of what is resampled together: equal texts where no groups are named."""
        names = self.texts if self.groups is None else self.groups
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names])

    def rows(self, which: list[int]) -> "LabelledTexts":
        """Some rows, in this order."""

        def pick(values: tuple[Any, ...] | None) -> Any:
            return None if values is None else tuple(values[i] for i in which)

        return LabelledTexts(
            self.name, pick(self.texts), pick(self.labels), pick(self.spans), pick(self.second), pick(self.groups)
        )

    def balanced(self, n: int, generator: torch.Generator) -> "LabelledTexts":
        """At most `n` rows, as many of each class as the rarest wanted share allows, in random order."""
        order = torch.randperm(len(self), generator=generator).tolist()
        share = n // len(self.classes)
        left = dict.fromkeys(self.classes, share)
        chosen = []
        for i in order:
            if left[self.labels[i]]:
                left[self.labels[i]] -= 1
                chosen.append(i)
        return self.rows(chosen)


def read_labelled_file(path: Path, split: str) -> LabelledTexts:
    """A .jsonl file (or a folder of train.jsonl and test.jsonl) of rows with `text` and `label`.

    Optional: `start` and `end` (characters), `second_label`, `group`. A single file is cut into train and test by a
    hash, one in five for the test: of the group where a row has one, else of its text.

    Raises:
        UserError: a row is damaged, some rows have spans and others don't, or there are fewer than two labels.
    """
    file, whole = split_file(path, split)
    rows = [_row(row, where) for where, row in jsonl_rows(file)]
    rows = rows if whole else [row for row in rows if in_split(_unit(row), split)]
    if len({row["label"] for row in rows}) < 2:
        raise UserError(
            f"{file}: the {split} part has fewer than two labels in {len(rows)} rows; nothing to tell apart"
        )
    columns = {name: tuple(row[name] for row in rows) for name in ("span", "second", "group")}
    for name, values in columns.items():
        if any(value is None for value in values) and any(value is not None for value in values):
            raise UserError(f"{file}: some rows have a {name} and others don't")

    def column(name: str) -> Any:
        return None if columns[name][0] is None else columns[name]

    return LabelledTexts(
        path.stem,
        tuple(row["text"] for row in rows),
        tuple(row["label"] for row in rows),
        column("span"),
        column("second"),
        column("group"),
    )


def _unit(row: dict[str, Any]) -> str:
    """What a row shares with those that must be in the same part."""
    return row["text"] if row["group"] is None else row["group"]


def _row(row: dict[str, Any], where: str) -> dict[str, Any]:
    text = text_field(row, "text", where)
    span = None
    if "start" in row or "end" in row:
        start, end = row.get("start"), row.get("end")
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
            raise UserError(f"{where}: start and end must be characters of the text, 0 <= start < end <= {len(text)}")
        span = (start, end)
    second, group = row.get("second_label"), row.get("group")
    return {
        "text": text,
        "label": str(row["label"]) if "label" in row else text_field(row, "label", where),
        "span": span,
        "second": None if second is None else str(second),
        "group": None if group is None else str(group),
    }


LABELLED: Providers[LabelledTexts] = Providers(
    "labelled texts", read_labelled_file, ".jsonl with text and label, or a folder with train.jsonl and test.jsonl"
)
