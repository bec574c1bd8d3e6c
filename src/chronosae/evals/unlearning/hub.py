"""The questions of SAEBench's unlearning on the Hugging Face Hub, by name. None of their text is ever kept by us."""

from functools import partial
from typing import Any

from chronosae.config import UserError
from chronosae.evals.data import QUESTIONS, Question, QuestionSet
from chronosae.evals.data.hub_labelled import hub_problem

SETS = {
    "cais/wmdp/wmdp-bio": ("cais/wmdp", "wmdp-bio"),
    **{
        f"cais/mmlu/{subject}": ("cais/mmlu", subject)
        for subject in ("high_school_us_history", "college_computer_science", "high_school_geography", "human_aging")
    },
}
"""Our name -> data set and subset."""


def register() -> None:
    """Make the sets names that `chronosae.evals.data.QUESTIONS` knows."""
    for name, (path, subset) in SETS.items():
        QUESTIONS.register_hub(name, partial(_read, path, subset), partial(hub_problem, path))


def _read(path: str, subset: str, _split: str) -> QuestionSet:
    import datasets

    try:
        rows = datasets.load_dataset(path, subset, split="test")
        found = [_question(row) for row in rows]  # pyright: ignore[reportArgumentType]
    except UserError:
        raise
    except Exception as error:  # network, decompression: any may end a download
        raise UserError(f"{path} ({subset}): reading failed ({type(error).__name__}); give a local file") from None
    return QuestionSet(subset, tuple(found))


def _question(row: dict[str, Any]) -> Question:
    a, b, c, d = row["choices"]
    return Question(row["question"], (a, b, c, d), int(row["answer"]), row["question"])
