"""SAEBench's labelled texts on the Hugging Face Hub, under the names that SAEBench gives them.

Classes are SAEBench's; rows are taken by a hash of their text, so they depend neither on a seed nor on what else is
read. Nothing is downloaded before a set is read. Not one row is kept in this repository.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from chronosae.config import UserError
from chronosae.evals.data.labelled import LABELLED, LabelledTexts
from chronosae.evals.data.providers import in_split

PER_CLASS = {"train": 2000, "test": 500}
"""Most texts of a class: SAEBench's 4,000 and 1,000 for a class and as many of the rest."""
# github-code: the license header is skipped, and enough code for a context must follow it.
SKIPPED_CHARACTERS, FEWEST_CHARACTERS = 150, 534
EXTENSIONS = {".c": "C", ".h": "C", ".py": "Python", ".html": "HTML", ".java": "Java", ".php": "PHP"}
LANGUAGE_PAIRS = {"en": "en-fr", "fr": "fr-it", "de": "de-en", "es": "es-fr", "nl": "nl-pt"}
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
TIMEOUT_SECONDS = 5

Row = tuple[str, str, str | None]
"""Text, label, second label."""
Open = Callable[..., Any]
"""`datasets.load_dataset` on the set's place."""


@dataclass(frozen=True)
class HubSet:
    """One set: where it is, and how its rows are read."""

    repo: str
    rows: Callable[[Open, str], Iterator[Row]]
    """All rows of a split, for as long as they are asked for."""
    classes: tuple[str, ...]
    paired: bool = False
    """As many texts of each second label in every class."""
    ordered: bool = True
    """Rows are all read, and taken in the order of a hash; else the first that come."""
    files: str | None = None
    """The set's parquet files: for a set whose own loading script `datasets` no longer runs."""

    def read(self, name: str, split: str, source: str | None = None) -> LabelledTexts:
        """At most `PER_CLASS` texts a class; `source` is a local copy in place of the hub.

        Raises:
            UserError: it can't be read, or has no row of some class.
        """
        if source is None and self.files is not None:
            opened = partial(_open, "parquet", data_files=self.files)
        else:
            opened = partial(_open, source or self.repo)
        rows = (row for row in self.rows(opened, split) if row[0].strip() and row[1] in self.classes)
        chosen = self._some(_by_hash(rows) if self.ordered else rows, PER_CLASS[split])
        lacking = sorted(set(self.classes) - {label for _, label, _ in chosen})
        if lacking:
            raise UserError(f"{name}: the {split} part has no text of {', '.join(lacking)}")
        texts, labels, seconds = zip(*chosen, strict=True)
        return LabelledTexts(name, texts, labels, second=seconds if self.paired else None)

    def _some(self, rows: Iterable[Row], most: int) -> list[Row]:
        """The first rows of each class (and second label); stops reading once there are enough of all."""
        most, cells = (most // 2, 2) if self.paired else (most, 1)
        taken: Counter[tuple[str, str | None]] = Counter()
        found: list[Row] = []
        for text, label, second in rows:
            cell = label, second if self.paired else None
            if taken[cell] < most:
                taken[cell] += 1
                found.append((text, label, second))
                if len(found) == most * cells * len(self.classes):
                    break
        return found


def _open(source: str, *arguments: Any, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(source, *arguments, **options)
    except Exception as error:  # offline, gated, moved, damaged: the remedy is the same
        raise UserError(
            f"{source}: can't be read from the Hugging Face Hub ({type(error).__name__}:"
            f" {(str(error).splitlines() or [''])[0][:150]}); give a local .jsonl file with text and label"
        ) from error


def _by_hash(rows: Iterable[Row]) -> list[Row]:
    """Without repeats, in an order that only the texts decide."""
    unique = {text: (text, label, second) for text, label, second in rows}
    return sorted(unique.values(), key=lambda row: hashlib.sha256(row[0].encode()).digest())


def _columns(text: str, label: str, second: str | None = None) -> Callable[[Open, str], Iterator[Row]]:
    """Rows of a set whose parts are `train` and `test`, by the names of its columns."""

    def rows(opened: Open, split: str) -> Iterator[Row]:
        table = opened(split=split)
        seconds = [None] * len(table) if second is None else map(str, table[second][:])
        yield from zip(table[text][:], map(str, table[label][:]), seconds, strict=True)

    return rows


def _code(opened: Open, split: str) -> Iterator[Row]:
    """One stream is cut into both parts by a hash of the text: no text is in both."""
    for row in opened(split="train", streaming=True):
        text = row["code"] if "code" in row else row["content"]
        label = row.get("language") or EXTENSIONS.get(PurePosixPath(row["path"]).suffix.lower(), "")
        if len(text) > FEWEST_CHARACTERS and in_split(text, split):
            yield text[SKIPPED_CHARACTERS:], label, None


def _parliament(opened: Open, split: str) -> Iterator[Row]:
    for language, pair in LANGUAGE_PAIRS.items():
        found = 0
        for row in opened(pair, split="train", streaming=True):
            text = row["translation"][language]
            if text.strip() and in_split(text, split):
                yield text, language, None
                found += 1
                if found == PER_CLASS[split]:
                    break


BIOS, AMAZON = "LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5"
_bios, _reviews = _columns("hard_text", "profession", "gender"), _columns("text", "category", "rating")

HUB_SETS = {
    f"{BIOS}_class_set1": HubSet(BIOS, _bios, ("0", "1", "2", "6", "9"), paired=True),
    f"{BIOS}_class_set2": HubSet(BIOS, _bios, ("11", "13", "14", "18", "19"), paired=True),
    f"{BIOS}_class_set3": HubSet(BIOS, _bios, ("20", "21", "22", "25", "26"), paired=True),
    AMAZON: HubSet(AMAZON, _reviews, ("1", "2", "3", "5", "6"), paired=True),
    f"{AMAZON}_sentiment": HubSet(AMAZON, _columns("text", "rating"), ("1.0", "5.0")),
    "codeparrot/github-code": HubSet(
        "codeparrot/github-code",
        _code,
        ("C", "Python", "HTML", "Java", "PHP"),
        ordered=False,
        files="hf://datasets/codeparrot/github-code/data/*.parquet",
    ),
    "fancyzhx/ag_news": HubSet("fancyzhx/ag_news", _columns("text", "label"), ("0", "1", "2", "3")),
    "Helsinki-NLP/europarl": HubSet("Helsinki-NLP/europarl", _parliament, tuple(LANGUAGE_PAIRS), ordered=False),
}
"""SAEBench's eight sets by its names."""


def hub_problem(repo: str) -> str | None:
    """Why a set can't be read from the hub, in a phrase; None when it can. Asks at most once in a process."""
    off = [name for name in OFFLINE if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")]
    if off:
        return f"the Hugging Face Hub is switched off ({off[0]} is set)"
    return _no_connection() or _no_access(repo)


@cache
def _no_connection() -> str | None:
    """One short request to the hub itself, without retries: many sets that are out of reach cost no more than one."""
    from huggingface_hub.constants import ENDPOINT

    try:
        urlopen(Request(ENDPOINT, method="HEAD"), timeout=TIMEOUT_SECONDS).close()
    except HTTPError:
        return None  # it answers
    except (OSError, ValueError) as error:
        return f"the Hugging Face Hub can't be reached ({getattr(error, 'reason', error)})"
    return None


@cache
def _no_access(repo: str) -> str | None:
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import build_hf_headers

    try:
        urlopen(Request(f"{ENDPOINT}/api/datasets/{repo}", headers=build_hf_headers()), timeout=TIMEOUT_SECONDS).close()
    except HTTPError as error:
        return f"the Hugging Face Hub doesn't give it ({error.code} {error.reason})"
    except (OSError, ValueError) as error:
        return f"the Hugging Face Hub can't be reached ({getattr(error, 'reason', error)})"
    return None


def register() -> None:
    """Make SAEBench's names known to `LABELLED`."""
    for name, hub_set in HUB_SETS.items():
        LABELLED.register_hub(name, partial(hub_set.read, name), partial(hub_problem, hub_set.repo))
