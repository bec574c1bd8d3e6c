"""Text with ground truth: marks inside strings become annotations, and templates are filled with right grammar.

Generators write marked strings (``mark("payer", "Mira")``), join them freely, and call :func:`parse` once at the end;
character offsets never have to be tracked by hand.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_OPEN, _MIDDLE, _CLOSE = "\x01", "\x02", "\x03"
_MARKUP = re.compile(f"{_OPEN}([^{_MIDDLE}]*){_MIDDLE}|{_CLOSE}")
_SLOT = re.compile(r"\{(a:)?([a-z_0-9]+)\}")
_SILENT_H = ("hour", "honest", "honour", "heir")
_SOUNDS_LIKE_Y_OR_W = ("one", "use", "uni", "euro")


@dataclass(frozen=True)
class Annotation:
    """A labelled character span ``text[start:end]`` of a document; ``note`` carries the detail of the label."""

    start: int
    end: int
    label: str
    note: str = ""


def mark(label: str, text: str, note: str = "") -> str:
    """Wrap ``text`` so that :func:`parse` reports it as an annotation; marks may nest."""
    return f"{_OPEN}{label}|{note}{_MIDDLE}{text}{_CLOSE}"


def parse(marked: str) -> tuple[str, tuple[Annotation, ...]]:
    """Split a marked string into plain text and its annotations, ordered by start and then by decreasing length."""
    pieces: list[str] = []
    open_marks: list[tuple[int, str]] = []
    found: list[Annotation] = []
    length = cursor = 0
    for match in _MARKUP.finditer(marked):
        chunk = marked[cursor : match.start()]
        pieces.append(chunk)
        length += len(chunk)
        cursor = match.end()
        if match.group(0) == _CLOSE:
            start, head = open_marks.pop()
            label, _, note = head.partition("|")
            found.append(Annotation(start, length, label, note))
        else:
            open_marks.append((length, match.group(1)))
    pieces.append(marked[cursor:])
    assert not open_marks, "a mark was left open"
    return "".join(pieces), tuple(sorted(found, key=lambda a: (a.start, -a.end)))


def plain(marked: str) -> str:
    """The text of a marked string without its marks."""
    return _MARKUP.sub("", marked)


def article(phrase: str) -> str:
    """``a`` or ``an``, whichever ``phrase`` needs."""
    word = plain(phrase).lower()
    if word.startswith(_SILENT_H):
        return "an"
    if word.startswith(_SOUNDS_LIKE_Y_OR_W):
        return "a"
    return "an" if word[:1] in "aeiou" else "a"


def capitalise(marked: str) -> str:
    """Upper-case the first letter, looking through marks, quotes and brackets."""
    i = 0
    while i < len(marked):
        if marked[i] == _OPEN:
            i = marked.index(_MIDDLE, i) + 1
        elif marked[i].isalpha():
            return marked[:i] + marked[i].upper() + marked[i + 1 :]
        elif marked[i].isdigit():
            return marked
        else:
            i += 1
    return marked


def fill(rng: random.Random, template: str, *sources: Mapping[str, str | Sequence[str]]) -> str:
    """Fill ``{slot}`` from the first source that has it (a list means: pick one); ``{a:slot}`` adds a or an.

    A slot that occurs twice in a template gets two different picks where its list allows it.
    """
    used: dict[str, set[str]] = {}

    def value(match: re.Match[str]) -> str:
        wants_article, slot = match.groups()
        source = next(s for s in sources if slot in s)
        choice = source[slot]
        if not isinstance(choice, str):
            seen = used.setdefault(slot, set())
            fresh = [c for c in choice if c not in seen] or list(choice)
            choice = rng.choice(fresh)
            seen.add(choice)
        return f"{article(choice)} {choice}" if wants_article else choice

    return capitalise(_SLOT.sub(value, template))


def join_list(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
