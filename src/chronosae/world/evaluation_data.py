"""The world's labelled texts and questions under the names by which evaluations ask for data."""

from __future__ import annotations

from functools import cache, partial

from chronosae.evals.data import LABELLED, QUESTIONS, LabelledTexts, Question, QuestionSet
from chronosae.world.evaluation_attributes import register_attributes
from chronosae.world.evaluation_order import register_order
from chronosae.world.evaluation_pairs import register_pairs
from chronosae.world.evaluation_words import register_words
from chronosae.world.facts import SUBJECTS
from chronosae.world.probing import TASKS, probing_texts
from chronosae.world.questions import questions

ROWS = {"train": 2000, "test": 1000}
"""Texts of each part."""


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
def _questions(subject: str, _split: str) -> QuestionSet:
    asked = questions(subject)
    found = tuple(Question(q.stem, q.options, q.answer, q.fact.key) for q in asked)
    return QuestionSet(f"world/{subject}", found)


def register() -> None:
    """Make `world/...` names that the evaluations' data know."""
    register_words()
    for task in TASKS:
        LABELLED.register(f"world/{task}", partial(_labelled, task))
    for subject in SUBJECTS:
        QUESTIONS.register(f"world/{subject}", partial(_questions, subject))
    register_order()
    register_attributes()
    register_pairs()


register_evaluation_data = register
"""The same, by the name under which the world offers it."""
