"""The world's minimal pairs of order under the names by which evaluations ask for data."""

from __future__ import annotations

from functools import cache, partial

from chronosae.evals.data import LABELLED, LabelledTexts
from chronosae.world.order_texts import TASKS, ordered_texts

ROWS = {"train": 2000, "test": 1000}
"""Items of each part."""


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


def register_order() -> None:
    """Make `world/order_...` names that labelled texts know."""
    for task in TASKS:
        LABELLED.register(f"world/{task}", partial(_ordered, task))
