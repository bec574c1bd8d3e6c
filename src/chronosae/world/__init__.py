"""The embedded world: an invented corpus with known structure, a small model that knows it, and questions about it.

Names are loaded on first use; importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronosae.world.chains import CHAINS, Chain
    from chronosae.world.corpus import KINDS, Document, make_document, sample_documents
    from chronosae.world.evaluation_data import register_evaluation_data
    from chronosae.world.facts import FORGET_SUBJECT, KEEP_SUBJECTS, SUBJECTS, Fact, facts
    from chronosae.world.model import model_folder
    from chronosae.world.probing import TASKS, LabelledText, probing_texts
    from chronosae.world.questions import Question, letter_prompt, likelihood_prompt, questions
    from chronosae.world.score import answers, score_world
    from chronosae.world.source import WorldSource, register
    from chronosae.world.text import Annotation
    from chronosae.world.tokenizer import build_tokenizer
    from chronosae.world.train import train_world

_HOMES: dict[str, str] = {
    "Annotation": "text",
    "CHAINS": "chains",
    "Chain": "chains",
    "Document": "corpus",
    "FORGET_SUBJECT": "facts",
    "Fact": "facts",
    "KEEP_SUBJECTS": "facts",
    "KINDS": "corpus",
    "LabelledText": "probing",
    "Question": "questions",
    "SUBJECTS": "facts",
    "TASKS": "probing",
    "WorldSource": "source",
    "answers": "score",
    "build_tokenizer": "tokenizer",
    "facts": "facts",
    "letter_prompt": "questions",
    "likelihood_prompt": "questions",
    "make_document": "corpus",
    "model_folder": "model",
    "probing_texts": "probing",
    "questions": "questions",
    "register": "source",
    "sample_documents": "corpus",
    "register_evaluation_data": "evaluation_data",
    "score_world": "score",
    "train_world": "train",
}

__all__ = [  # noqa: RUF022 - by theme: facts, texts, questions, model
    "FORGET_SUBJECT",
    "KEEP_SUBJECTS",
    "SUBJECTS",
    "Fact",
    "facts",
    "Annotation",
    "CHAINS",
    "Chain",
    "Document",
    "KINDS",
    "WorldSource",
    "make_document",
    "register",
    "register_evaluation_data",
    "sample_documents",
    "LabelledText",
    "Question",
    "TASKS",
    "answers",
    "letter_prompt",
    "likelihood_prompt",
    "probing_texts",
    "questions",
    "build_tokenizer",
    "model_folder",
    "score_world",
    "train_world",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
