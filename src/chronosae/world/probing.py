"""Labelled texts for probing: balanced tasks on documents, and minimal pairs of which only the order differs.

Tasks on documents (`TASKS`) are at text or at token level. Minimal pairs (`ORDER_TASKS`) are for order-sensitive
probing: the items of one scene come in pairs with opposite labels at the same token, in texts that hold the same tokens
(so the same bag), at the same place or nearly so. Neither the token, nor the bag, nor the place tells the labels apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chronosae.config.errors import UserError
from chronosae.world.corpus import Document, make_document
from chronosae.world.knowledge import SUBJECTS
from chronosae.world.lexicon import MEN, WOMEN
from chronosae.world.scenes import ACTIONS, TRANSFERS, Scene, scene
from chronosae.world.text import capitalise
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


@dataclass(frozen=True)
class OrderedText:
    """``label`` holds for ``text[start:end]``; items of the same ``pair`` were made from one scene."""

    text: str
    label: str
    start: int
    end: int
    pair: str


# People are written in afterwards: exchanging them changes nothing else.
_A, _B, _C = "<A>", "<B>", "<C>"
# Sentences about one person, none of them naming another or leaning on a pronoun.
_ALONE = tuple(t for t in ACTIONS if t.startswith("{p}") and not any(s in t for s in ("{q}", "{his}", "{he}")))
_PAID = TRANSFERS[0][3]
_CLAUSES = (
    "the {animal} slept",
    "the {worker} was {feeling}",
    "the {thing} was old",
    "the {worker} laughed",
    "the {animal} had run off",
    "the {food} was cold",
    "the {thing} stood in the rain",
    "the {relation} of the {worker} had come",
)
_TAILS = ("and then it was over", "and nobody spoke", "but all went well", "as it often happens", "and so it stayed")


def who_paid(rng: random.Random, pair: str) -> Iterator[OrderedText]:
    """Somebody paid somebody; then one of the two is named again, and there the text ends: payer or payee?"""
    sc, (a, b, _) = _cast(rng)
    before = [sc.scenery() for _ in range(rng.choice((1, 2)))]
    paid = rng.choice(_PAID).replace("{N}", sc.fill("{coins} coins").lower())
    between = [sc.scenery() for _ in range(rng.choice((0, 0, 1)))]
    for payer, payee in ((a, b), (b, a)):
        told = capitalise(paid.replace("{P}", payer).replace("{Q}", payee))
        head = " ".join([*before, told, *between]) + " "
        yield OrderedText(head + a, "payer" if payer == a else "payee", len(head), len(head) + len(a), pair)


def role(rng: random.Random, pair: str) -> Iterator[OrderedText]:
    """Somebody paid somebody: which of the two is the payer, at each name?

    A name is the payer in one text and the payee in the other. Whoever reads from left to right can't know the role of
    the name that comes first in most wordings.
    """
    sc, (a, b, _) = _cast(rng)
    before = sc.scenery()
    payer_first = rng.random() < 0.5
    lines = [line for line in _PAID if (line.index("{P}") < line.index("{Q}")) == payer_first]
    paid = rng.choice(lines).replace("{N}", sc.fill("{coins} coins").lower())
    for payer, payee in ((a, b), (b, a)):
        text = before + " " + paid.replace("{P}", payer).replace("{Q}", payee)
        for name, label in ((payer, "payer"), (payee, "payee")):
            start = text.index(name, len(before))
            yield OrderedText(text, label, start, start + len(name), pair)


def mention(rng: random.Random, pair: str) -> Iterator[OrderedText]:
    """A name that stood in the text before, or that stands there for the first time and comes again later."""
    sc, (a, b, c) = _cast(rng)
    early = [_alone(sc, _A), *([_alone(sc, _C)] if rng.random() < 0.5 else [])]
    rng.shuffle(early)
    before = [sc.scenery(), *early, *([sc.scenery()] if rng.random() < 0.5 else [])]
    target, after = _alone(sc, _B), [sc.scenery(), _alone(sc, _A)]
    for named, other in ((a, b), (b, a)):
        for label, first, last in (("later", named, other), ("first", other, named)):
            head = " ".join(before).replace(_A, first).replace(_C, c) + " "
            rest = " ".join(after).replace(_A, last)
            text = head + target.replace(_B, named) + " " + rest
            yield OrderedText(text, label, len(head), len(head) + len(named), pair)


def bracket(rng: random.Random, pair: str) -> Iterator[OrderedText]:
    """Two clauses, of which the first or the second stands in brackets; the last word of either: inside or outside?"""
    sc, (a, _, _) = _cast(rng)
    before = [sc.scenery() for _ in range(rng.choice((1, 2)))]
    body = _alone(sc, _A).replace(_A, a)[:-1]
    one, two = (sc.fill(t).replace("The", "the", 1) for t in rng.sample(_CLAUSES, 2))
    head, tail = " ".join([*before, body]), " " + rng.choice(_TAILS) + "."
    for inside in (0, 1):
        first, joint = (f"{head}, {one}", f" ({two})") if inside else (f"{head} ({one}", f"), {two}")
        text = first + joint + tail
        words = (one.split()[-1], two.split()[-1])
        ends = (len(first), len(first) + len(joint) - inside)
        for i, (word, end) in enumerate(zip(words, ends, strict=True)):
            yield OrderedText(text, "inside" if i == inside else "outside", end - len(word), end, pair)


def place(rng: random.Random, pair: str) -> Iterator[OrderedText]:
    """A letter's first or last full stop. Other text stands before or behind, so that both stand at the same place."""
    letter = make_document("order", rng.randrange(2**31), kind="letter").text
    sc = scene(rng)
    early, late = letter.index(". ") + 1, letter.rindex(".\n") + 1
    other = sc.scenery()
    while len(other) < late - early - 30:
        other += " " + sc.scenery()
    head = other + "\n\n"
    yield OrderedText(head + letter, "early", len(head) + early - 1, len(head) + early, pair)
    yield OrderedText(letter + "\n\n" + other, "late", late - 1, late, pair)


def _cast(rng: random.Random) -> tuple[Scene, tuple[str, str, str]]:
    """A scene and three people, all women or all men, so that no pronoun tells them apart."""
    a, b, c = rng.sample(rng.choice((WOMEN, MEN)), 3)
    return scene(rng), (a, b, c)


def _alone(sc: Scene, who: str) -> str:
    """A sentence that begins with a placeholder for its only person."""
    return sc.sentence(_ALONE).replace(sc.p, who, 1)


ORDER_TASKS: dict[str, Callable[[random.Random, str], Iterator[OrderedText]]] = {
    "order_role": role,
    "order_who_paid": who_paid,
    "order_mention": mention,
    "order_bracket": bracket,
    "order_place": place,
}
"""Writers of the items of one scene."""


def ordered_texts(task: str, split: str, n: int, *, seed: int = 0) -> list[OrderedText]:
    """At least ``n`` items, whole pairs; ``train`` and ``test`` come from other scenes."""
    found: list[OrderedText] = []
    index = 0
    while len(found) < n:
        found += ORDER_TASKS[task](random.Random(f"order/{task}/{seed}/{split}/{index}"), str(index))
        index += 1
    return found
