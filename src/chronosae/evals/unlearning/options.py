"""Options of the evaluation `unlearning`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chronosae.config import SourceConfig
from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.multiple_choice import Format

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class UnlearningOptions(EvalOptions):
    """What to forget, what to keep, and the settings that are tried."""

    format: Format = "likelihood"
    """`likelihood`: the four answers are ranked by their log-likelihood; `letters`: SAEBench's lettered options, and
    only questions that are right in all 24 orders of the options."""
    chat: bool = False
    """With `letters`: put the question into the tokenizer's chat template, as SAEBench does."""
    protocol: Literal["chronosae", "saebench"] = "chronosae"
    """How features are ranked: by exact frequencies, the lower number first among equals; or by frequencies rounded to
    six decimals, in the order in which numpy leaves equals."""
    forget_text: SourceConfig = SourceConfig(path="world", subset="forget", split="test")
    """Text on what is to be forgotten: `path` (registered, local or Hugging Face), `subset`, `split`, `text_field`."""
    retain_text: SourceConfig = SourceConfig(path="world", subset="keep", split="test")
    """Other text."""
    text_tokens: Positive = 50_000
    """Tokens of each on which firing frequencies are measured (SAEBench: 1,048,576)."""
    context: Annotated[int, Field(ge=2)] = 128
    """Tokens of a text that are read; the rest of a longer one is left out (SAEBench: 1,024)."""
    forget_questions: str = "world/pathogens"
    """Questions on what is to be forgotten: a registered name, a file (MMLU's .csv, .jsonl), or a hub set."""
    kept_questions: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "world/history",
        "world/geography",
        "world/computing",
        "world/ageing",
    )
    """Questions that must still be answered right afterwards."""
    max_questions: Positive | None = 100
    """Questions of each set at most, drawn at random; null: all of them, as in SAEBench."""
    retain_thresholds: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.001, 0.01)
    """Features that fire on at least this share of the retain text's tokens are never clamped."""
    n_features: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10, 20)
    """How many features are clamped."""
    multipliers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (25, 50, 100, 200)
    """Where a feature fires it becomes minus this, in units of the raw activation."""
    retained_accuracy: Share = 0.99
    """A setting counts when this share of the kept questions is still right."""

    @model_validator(mode="after")
    def _chat_needs_letters(self) -> "UnlearningOptions":
        if self.chat and self.format != "letters":
            raise ValueError("chat goes with format letters; set format to letters, or chat to false")
        if self.forget_questions in self.kept_questions or len(set(self.kept_questions)) < len(self.kept_questions):
            raise ValueError("forget_questions and kept_questions must name different sets")
        return self
