"""The world's texts, questions, facts and words under the names by which evaluations ask for data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from chronosae.evals.data import LABELLED, QUESTIONS, LabelledTexts, Question, QuestionSet
from chronosae.evals.data.questions import WORDS, WordList
from chronosae.evals.ravel.data import ATTRIBUTES, ENTITY, AttributeSet
from chronosae.world.corpus import Document, make_document
from chronosae.world.knowledge import SUBJECTS, TABLES, facts
from chronosae.world.multiple_choice import questions
from chronosae.world.paraphrases import WORDINGS
from chronosae.world.probing import ORDER_TASKS, TASKS, ordered_texts, probing_texts
from chronosae.world.spelling import LETTERS, words

ROWS = {"train": 2000, "test": 1000}
"""Texts of each part."""
A_LETTER = {"train": 60, "test": 20}
"""Words of each letter. Those for the test occur nowhere in the corpus."""
PER_QUADRANT = {"train": 300, "test": 150}
"""Texts of each combination of the two labels of a pair."""


def register() -> None:
    """Make `world/...` names that the evaluations' data know."""
    WORDS.register("world/words", _words)
    for task in TASKS:
        LABELLED.register(f"world/{task}", partial(_labelled, task))
    for subject in SUBJECTS:
        QUESTIONS.register(f"world/{subject}", partial(_questions, subject))
    for task in ORDER_TASKS:
        LABELLED.register(f"world/{task}", partial(_ordered, task))
    for subject in SUBJECTS:
        ATTRIBUTES.register(f"world/{subject}", partial(_attributes, subject))
    for pair in PAIRS:
        LABELLED.register(f"world/{pair}", partial(paired_texts, pair))


register_evaluation_data = register
"""The same, by the name under which the world offers it."""


@cache
def _words(split: str) -> WordList:
    found = (word for letter in LETTERS for word in words(letter, split)[: A_LETTER[split]])
    return WordList("world/words", tuple(found))


@cache
def _labelled(task: str, split: str) -> LabelledTexts:
    found = probing_texts(task, split, ROWS[split])
    spans = tuple((item.start, item.end) for item in found)
    texts = tuple(item.text for item in found)
    return LabelledTexts(
        name=f"world/{task}",
        texts=texts,
        labels=tuple(item.label for item in found),
        spans=None if spans[0][0] < 0 else spans,
        # Several spans of one document are not independent.
        groups=texts,
    )


@cache
def _ordered(task: str, split: str) -> LabelledTexts:
    found = ordered_texts(task, split, ROWS[split])
    return LabelledTexts(
        name=f"world/{task}",
        texts=tuple(item.text for item in found),
        labels=tuple(item.label for item in found),
        spans=tuple((item.start, item.end) for item in found),
        groups=tuple(f"{split}/{item.pair}" for item in found),
    )


@cache
def _questions(subject: str, _split: str) -> QuestionSet:
    found = tuple(Question(q.stem, q.options, q.answer, q.fact.key) for q in questions(subject))
    return QuestionSet(f"world/{subject}", found)


@cache
def _attributes(subject: str, _split: str) -> AttributeSet:
    """Held-out questions in likelihood format; answers end in the full stop that the documents have there."""
    attributes = tuple(TABLES[subject].values)
    return AttributeSet(
        name=subject,
        prompts={
            a: tuple(
                f"Question: {question.replace('{e}', ENTITY)}\nAnswer:"
                for question in WORDINGS[subject, a].questions_held_out
            )
            for a in attributes
        },
        values={a: {f.entity: f"{f.value}." for f in facts(subject) if f.attribute == a} for a in attributes},
    )


# Texts with two labels that can be crossed at will: what spurious correlation removal (SCR) needs.

_SETTINGS = {
    **dict.fromkeys(("kitchen", "school", "workshop", "market"), "indoors"),
    **dict.fromkeys(("forest", "harbour", "journey", "harvest"), "outdoors"),
}


@dataclass(frozen=True)
class LabelPair:
    """``second`` reads a document's second label; documents whose label isn't in ``seconds`` are passed over."""

    firsts: tuple[str, str]
    seconds: tuple[str, str]
    kinds: tuple[str, ...]
    second: Callable[[Document], str | None]


PAIRS: dict[str, LabelPair] = {
    # What the text is about, and its form: the form is on every line.
    "subject_and_kind": LabelPair(("history", "computing"), ("form", "report"), ("form", "report"), lambda d: d.kind),
    # What it is about, and where it takes place: both are matters of vocabulary, in texts of one kind.
    "subject_and_setting": LabelPair(
        ("history", "computing"), ("indoors", "outdoors"), ("report",), lambda d: _SETTINGS.get(d.topic or "")
    ),
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
