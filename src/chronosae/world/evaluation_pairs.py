"""Texts with two labels that can be crossed at will: what spurious correlation removal (SCR) needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.world.corpus import Document, make_document

PER_QUADRANT = {"train": 300, "test": 150}
"""Texts of each combination of the two labels."""

_INDOORS = frozenset({"kitchen", "school", "workshop", "market"})
_OUTDOORS = frozenset({"forest", "harbour", "journey", "harvest"})


@dataclass(frozen=True)
class LabelPair:
    """``second`` reads a document's second label; documents whose label isn't in ``seconds`` are passed over."""

    firsts: tuple[str, str]
    seconds: tuple[str, str]
    kinds: tuple[str, ...]
    second: Callable[[Document], str | None]


def _kind(document: Document) -> str | None:
    return document.kind


def _setting(document: Document) -> str | None:
    return "indoors" if document.topic in _INDOORS else "outdoors" if document.topic in _OUTDOORS else None


PAIRS: dict[str, LabelPair] = {
    # What the text is about, and its form: the form is on every line.
    "subject_and_kind": LabelPair(("history", "computing"), ("form", "report"), ("form", "report"), _kind),
    # What it is about, and where it takes place: both are matters of vocabulary, in texts of one kind.
    "subject_and_setting": LabelPair(("history", "computing"), ("indoors", "outdoors"), ("report",), _setting),
}
"""Data sets by name: the first label is the subject of the text."""


@cache
def paired_texts(pair: str, split: str, per_quadrant: int | None = None) -> LabelledTexts:
    """As many texts of each of the four combinations, in turn; `train` and `test` come from other documents.

    The first text carries the first of both labels: together they are what is positive.
    """
    spec = PAIRS[pair]
    room = PER_QUADRANT[split] if per_quadrant is None else per_quadrant
    quadrants: dict[tuple[str, str], list[str]] = {(a, b): [] for a in spec.firsts for b in spec.seconds}
    index = 0
    while any(len(texts) < room for texts in quadrants.values()):
        kind = spec.kinds[index % len(spec.kinds)]
        document = make_document(f"pairs/{split}", index, kind=kind)
        index += 1
        found = quadrants.get((document.subject or "", spec.second(document) or ""))
        if found is not None and len(found) < room:
            found.append(document.text)
    rows = [(text, *labels) for i in range(room) for labels, texts in quadrants.items() for text in (texts[i],)]
    texts, firsts, seconds = zip(*rows, strict=True)
    return LabelledTexts(f"world/{pair}", texts, firsts, second=seconds)


def register_pairs() -> None:
    """Make the pairs known to the evaluations' data, as `world/...`."""
    for pair in PAIRS:
        LABELLED.register(f"world/{pair}", partial(paired_texts, pair))
