"""The data of evaluations: registered sets, local files in documented shapes, hub sets."""

from chronosae.evals.data.labelled import LABELLED, LabelledTexts
from chronosae.evals.data.providers import Providers
from chronosae.evals.data.questions import LETTERS, QUESTIONS, Question, QuestionSet

__all__ = ["LABELLED", "LETTERS", "QUESTIONS", "LabelledTexts", "Providers", "Question", "QuestionSet"]
