"""Labelled texts for probing: a few balanced tasks with a train and a test part, at text or at token level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chronosae.world.corpus import Document, make_document
from chronosae.world.facts import SUBJECTS
from chronosae.world.topics import TOPICS


@dataclass(frozen=True)
class LabelledText:
    """``label`` holds for ``text``, or, when ``start`` is not -1, for the span ``text[start:end]`` within it."""

    text: str
    label: str
    start: int = -1
    end: int = -1


@dataclass(frozen=True)
class ProbingTask:
    """``read`` finds the labelled items of a document; ``labels`` are all classes."""

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    subset: str
    read: Callable[[Document], Iterator[LabelledText]]


def _kind(document: Document) -> Iterator[LabelledText]:
    yield LabelledText(document.text, document.kind)


def _subject(document: Document) -> Iterator[LabelledText]:
    if document.subject:
        yield LabelledText(document.text, document.subject)


def _topic(document: Document) -> Iterator[LabelledText]:
    if document.topic:
        yield LabelledText(document.text, document.topic)


def _spans(*labels: str) -> Callable[[Document], Iterator[LabelledText]]:
    def read(document: Document) -> Iterator[LabelledText]:
        for a in document.annotations:
            if a.label in labels:
                yield LabelledText(document.text, a.label, a.start, a.end)

    return read


def _bracket(document: Document) -> Iterator[LabelledText]:
    # A word inside the first bracket, and the word just before it.
    for a in document.annotations:
        if a.label == "inside_bracket":
            before = document.text[: a.start - 2]
            word = before.rsplit(None, 1)[-1]
            yield LabelledText(document.text, "outside", len(before) - len(word), len(before))
            inside = document.text[a.start : a.end].split("(")[0].split()[-1]
            start = document.text.index(inside, a.start)
            yield LabelledText(document.text, "inside", start, start + len(inside))
            return


def _early_or_late(document: Document) -> Iterator[LabelledText]:
    # The same kind of token, a full stop, in the first and in the last quarter of the document.
    text = document.text
    stops = [i for i, char in enumerate(text) if char == "."]
    for i in stops:
        if i < len(text) // 4:
            yield LabelledText(text, "early", i, i + 1)
            break
    for i in stops[::-1]:
        if i > 3 * len(text) // 4:
            yield LabelledText(text, "late", i, i + 1)
            break


_PROSE = ("story", "dialogue", "letter", "report", "form", "encyclopaedia")

TASKS: dict[str, ProbingTask] = {
    "kind": ProbingTask(_PROSE, _PROSE, "all", _kind),
    "subject": ProbingTask(SUBJECTS, ("dialogue", "encyclopaedia", "form", "report"), "all", _subject),
    "who_pays": ProbingTask(("payer", "payee"), ("story",), "all", _spans("payer", "payee")),
    "mention": ProbingTask(
        ("mention_first", "mention_later"), ("story", "report"), "all", _spans("mention_first", "mention_later")
    ),
    "bracket": ProbingTask(("inside", "outside"), ("story", "report"), "all", _bracket),
    "place_in_document": ProbingTask(("early", "late"), ("story", "report", "letter"), "all", _early_or_late),
    "topic": ProbingTask(tuple(t.name for t in TOPICS), ("story", "letter", "report"), "all", _topic),
}
"""Task names with their classes."""


def probing_texts(task: str, split: str = "train", n: int = 1000, *, seed: int = 0) -> list[LabelledText]:
    """``n`` items of a task, the classes as equal as ``n`` allows; ``train`` and ``test`` come from other documents."""
    from chronosae.config.errors import UserError

    if task not in TASKS:
        raise UserError(f"world: probing task must be one of {', '.join(TASKS)}, not {task!r}")
    spec = TASKS[task]
    room = {label: n // len(spec.labels) + (i < n % len(spec.labels)) for i, label in enumerate(spec.labels)}
    found: list[LabelledText] = []
    index = 0
    while len(found) < n:
        kind = spec.kinds[index % len(spec.kinds)]
        document = make_document(f"probing/{split}", index, seed=seed, subset=spec.subset, kind=kind)
        index += 1
        for item in spec.read(document):
            if room[item.label]:
                room[item.label] -= 1
                found.append(item)
    return found
