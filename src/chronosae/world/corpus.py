"""Documents by number: document ``index`` of a split is a pure function of (seed, split, index)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chronosae.world.documents.drills import letters, lookup, named, open_book, quiz
from chronosae.world.documents.prose import dialogue, letter, story
from chronosae.world.documents.records import encyclopaedia, form, report
from chronosae.world.facts import FORGET_SUBJECT, KEEP_SUBJECTS, SUBJECTS
from chronosae.world.lexicon import MEN, WOMEN
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
"""How often each kind occurs in the corpus that :class:`~chronosae.world.source.WorldSource` serves."""
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
    from chronosae.config.errors import UserError

    if kind is not None and kind not in KINDS:
        raise UserError(f"world: kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return [make_document(split, i, seed=seed, subset=subset, kind=kind) for i in range(n)]
