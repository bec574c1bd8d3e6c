"""The world's entities and attributes under the names by which evaluations ask for them."""

from __future__ import annotations

from functools import cache, partial

from chronosae.evals.ravel.data import ATTRIBUTES, ENTITY, AttributeSet
from chronosae.world.facts import SUBJECTS, TABLES, facts
from chronosae.world.paraphrases import WORDINGS


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


def register_attributes() -> None:
    """Make `world/SUBJECT` names that attribute sets know."""
    for subject in SUBJECTS:
        ATTRIBUTES.register(f"world/{subject}", partial(_attributes, subject))
