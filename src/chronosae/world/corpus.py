"""Documents by number, and the source that serves them: document ``index`` of a split is a pure function of its number.

Its seed is (seed, split, subset, index), so a corpus resumes at any document without replay.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from chronosae.config.errors import UserError
from chronosae.corpora import CORPORA, Corpus
from chronosae.world.documents import (
    dialogue,
    encyclopaedia,
    form,
    letter,
    letters,
    lookup,
    named,
    open_book,
    quiz,
    report,
    story,
)
from chronosae.world.knowledge import FORGET_SUBJECT, KEEP_SUBJECTS, SUBJECTS
from chronosae.world.lexicon import GENERATOR_VERSION, MEN, WOMEN
from chronosae.world.spelling import spelling
from chronosae.world.text import Annotation, parse

SPLITS = ("train", "valid", "test")
SUBSETS = ("all", "forget", "keep")

_WRITERS: dict[str, Callable[[random.Random, str | None], str]] = {
    "story": story,
    "dialogue": dialogue,
    "letter": letter,
    "report": report,
    "encyclopaedia": encyclopaedia,
    "form": form,
    "quiz": quiz,
    "spelling": spelling,
    "lookup": lookup,
    "named": named,
    "open_book": open_book,
    "letters": letters,
}
KINDS = tuple(_WRITERS)
"""Kinds of documents."""

MIXTURE: dict[str, float] = {
    "story": 0.26,
    "dialogue": 0.16,
    "letter": 0.08,
    "report": 0.14,
    "encyclopaedia": 0.14,
    "form": 0.09,
    "quiz": 0.05,
    "spelling": 0.03,
    "letters": 0.05,
}
"""How often each kind occurs in the corpus that :class:`WorldSource` serves."""
_ABOUT_A_SUBJECT = ("dialogue", "letter", "report", "encyclopaedia", "form")
_NEUTRAL = {"story": 0.7, "dialogue": 0.35, "letter": 0.4, "report": 0.2, "form": 0.15}
_SUBJECT_WEIGHTS = (0.32, 0.17, 0.17, 0.17, 0.17)
_PEOPLE = re.compile(r"\b(" + "|".join((*WOMEN, *MEN)) + r")\b")


@dataclass(frozen=True)
class Document:
    """A generated text with its ground truth.

    ``subject`` is ``None`` for texts about everyday life; ``topic`` is the vocabulary that persists through the text.
    """

    text: str
    kind: str
    subject: str | None
    index: int
    annotations: tuple[Annotation, ...]
    topic: str | None = None


def make_document(
    split: str,
    index: int,
    *,
    seed: int = 0,
    subset: str = "all",
    kind: str | None = None,
    mixture: Mapping[str, float] | None = None,
) -> Document:
    """Document number ``index``; ``kind`` or ``mixture`` overrides what the corpus would hold there.

    ``subset="forget"`` gives prose about pathogens only, ``"keep"`` prose about the four other subjects only.
    """
    rng = random.Random(f"world/{seed}/{split}/{subset}/{index}")
    if subset == "all":
        weights = MIXTURE if mixture is None else mixture
    else:
        weights = {k: MIXTURE[k] for k in _ABOUT_A_SUBJECT}
    drawn = rng.choices(list(weights), list(weights.values()))[0]
    kind = kind or drawn
    if subset == "forget":
        subject = FORGET_SUBJECT
    elif subset == "keep":
        subject = rng.choice(KEEP_SUBJECTS)
    else:
        subject = rng.choices(SUBJECTS, _SUBJECT_WEIGHTS)[0]
        if kind == "spelling" or rng.random() < _NEUTRAL.get(kind, 0.0):
            subject = None
    text, annotations = parse(_WRITERS[kind](rng, subject))
    topic = next((a.note for a in annotations if a.label == "topic"), None)
    spans = [a for a in annotations if a.label != "topic"] + _structure(text)
    return Document(text, kind, subject, index, tuple(sorted(spans, key=_order)), topic)


def _order(annotation: Annotation) -> tuple[int, int, str]:
    return annotation.start, -annotation.end, annotation.label


def _structure(text: str) -> list[Annotation]:
    """What can be read off the text itself: brackets with their depth, and first and later mentions of people."""
    found: list[Annotation] = []
    stack: list[int] = []
    for i, char in enumerate(text):
        if char == "(":
            stack.append(i + 1)
        elif char == ")" and stack:  # the option marks "A)" close nothing
            start = stack.pop()
            found.append(Annotation(start, i, "inside_bracket", str(len(stack) + 1)))
    seen: set[str] = set()
    for match in _PEOPLE.finditer(text):
        name = match.group(0)
        found.append(Annotation(match.start(), match.end(), "mention_later" if name in seen else "mention_first", name))
        seen.add(name)
    return found


def sample_documents(
    kind: str | None = None, split: str = "test", n: int = 3, *, seed: int = 0, subset: str = "all"
) -> list[Document]:
    """The first ``n`` documents of a split, all of one ``kind`` if it is given; ``UserError`` for an unknown kind."""
    if kind is not None and kind not in KINDS:
        raise UserError(f"world: kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return [make_document(split, i, seed=seed, subset=subset, kind=kind) for i in range(n)]


class WorldSource:
    """An endless (or bounded) stream of generated documents with random access by number.

    ``subset`` is ``all``, ``forget`` (pathogens) or ``keep`` (the four other subjects); ``documents`` bounds the
    stream. Iterating from ``start`` costs nothing for the documents before it.
    """

    def __init__(
        self,
        name: str = "world",
        split: str = "train",
        subset: str | None = None,
        documents: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"world: split must be one of {', '.join(SPLITS)}, not {split!r}")
        subset = subset or "all"
        if subset not in SUBSETS:
            raise UserError(f"world: subset must be one of {', '.join(SUBSETS)}, not {subset!r}")
        if documents is not None and documents < 1:
            raise UserError(f"world: documents must be at least 1, not {documents}")
        self.name, self.split, self.subset, self.limit, self.seed = name, split, subset, documents, seed

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the generator's version and the options: equal fingerprints mean equal text."""
        options = {
            "generator": GENERATOR_VERSION,
            "split": self.split,
            "subset": self.subset,
            "documents": self.limit,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def documents(self, start: int = 0) -> Iterator[str]:
        """Texts from document number ``start`` on."""
        index = start
        while self.limit is None or index < self.limit:
            yield make_document(self.split, index, seed=self.seed, subset=self.subset).text
            index += 1


@CORPORA.add
class World(Corpus):
    """The embedded world: text without end about invented facts; subsets all, forget (pathogens) and keep."""

    name = "world"

    def open(self, name: str) -> WorldSource:
        """The source of its text; `UserError` for a split or subset that it doesn't have."""
        return WorldSource(name, self.split, self.subset)

    def documents(self, start: int = 0) -> Iterator[str]:
        """Texts from document number ``start`` on."""
        return self.open(self.name).documents(start)


def register() -> None:
    """Make ``world`` a corpus that is known by name; to have imported this module is enough."""
