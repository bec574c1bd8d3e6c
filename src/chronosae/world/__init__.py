"""The embedded world: an invented corpus with known structure, a small model that knows it, and questions about it.

Names are loaded on first use; importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronosae.world.chains import CHAINS, Chain
    from chronosae.world.corpus import KINDS, Document, WorldSource, make_document, register, sample_documents
    from chronosae.world.evaluation_data import register_evaluation_data
    from chronosae.world.knowledge import FORGET_SUBJECT, KEEP_SUBJECTS, SUBJECTS, Fact, facts
    from chronosae.world.model import answers, model_folder, score_world
    from chronosae.world.multiple_choice import Question, letter_prompt, likelihood_prompt, questions
    from chronosae.world.probing import TASKS, LabelledText, probing_texts
    from chronosae.world.text import Annotation
    from chronosae.world.train import build_tokenizer, train_world

# Modules and what they hold. None has the name of a function below: importing a module sets an attribute of its name.
_MODULES: dict[str, tuple[str, ...]] = {
    "chains": ("CHAINS", "Chain"),
    "corpus": ("KINDS", "Document", "WorldSource", "make_document", "register", "sample_documents"),
    "evaluation_data": ("register_evaluation_data",),
    "knowledge": ("FORGET_SUBJECT", "KEEP_SUBJECTS", "SUBJECTS", "Fact", "facts"),
    "model": ("answers", "model_folder", "score_world"),
    "multiple_choice": ("Question", "letter_prompt", "likelihood_prompt", "questions"),
    "probing": ("TASKS", "LabelledText", "probing_texts"),
    "text": ("Annotation",),
    "train": ("build_tokenizer", "train_world"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

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
