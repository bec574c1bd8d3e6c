"""Options of the absorption evaluation: `evals.absorption`. The numbers are SAEBench's where it has them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from chronosae.evals.evaluation import EvalOptions

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class AbsorptionOptions(EvalOptions):
    """First-letter absorption."""

    data: str = "world/words"
    """A registered word list, a local file with one word a line, or `vocabulary`: the tokenizer's alphabetic tokens."""
    protocol: Literal["chronosae", "saebench"] = "chronosae"
    """`saebench` also repeats what docs/evaluations/absorption.md lists as wrong there."""
    template: str = "{word} has the first letter:"
    """A line of the prompt up to its answer."""
    answer: str = " {letter}"
    """What follows it in the examples; `{letter}` is the capital first letter. What is asked for is its first token."""
    separator: str = "\n"
    """Between lines."""
    leading_separator: bool = True
    """A separator before the first line too."""
    examples: Annotated[int, Field(ge=0)] = 5
    """Lines with an answer before the one that is asked; SAEBench has 10."""
    token: Literal["first", "last"] = "first"
    """Token of the word that is read; the same one where words are single tokens, as in SAEBench."""
    train_words: Positive | None = 2000
    """At most so many words for the probes, as many of each letter as there are; null: all, as SAEBench."""
    test_words: Positive | None = 500
    """At most so many words to measure with; null: all."""
    min_probe_f1: Share = 0.6
    """A letter counts where the probe on activations has a larger F1 on test words (SAEBench: min_GT_probe_f1)."""
    min_letters: Annotated[int, Field(ge=1, le=26)] = 20
    """With fewer letters there is no score (SAEBench: min_feats_for_eval)."""
    probe_epochs: Positive = 50
    """Passes over the words in which a probe is trained."""
    probe_batch: Positive = 4096
    """Words a step of that training."""
    probe_steps: Annotated[int, Field(ge=0)] = 500
    """At least so many steps, more epochs where the words are few; `protocol: saebench` has no such floor."""
    probe_weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 of the probe on activations."""
    sparse_probe_l1: Annotated[float, Field(ge=0)] = 0.01
    """L1 of the probe on codes, which ranks the features of a letter (SAEBench: k_sparse_probe_l1_decay)."""
    max_k: Positive = 10
    """Largest number of split features of a letter (SAEBench: max_k_value)."""
    f1_jump_threshold: Share = 0.03
    """A further feature is a split feature where it raises F1 by more."""
    silent_below: Annotated[float, Field(gt=0)] = 1e-8
    """A feature is silent with a smaller code."""
    full_min_cosine: Share = 0.025
    """Full absorption: smallest cosine of the absorbing feature with the probe."""
    fraction_min_cosine: Share = 0.1
    """Absorption fraction: smallest cosine of an absorbing feature with the probe."""
    min_projection_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Both: smallest share of the activation's projection that absorbing features make up."""
    max_absorbers: Positive = 3
    """Absorption fraction: most features that absorb together."""

    @field_validator("template")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if value.count("{word}") != 1:
            raise ValueError("must contain {word} exactly once")
        return value

    @field_validator("answer")
    @classmethod
    def _one_letter(cls, value: str) -> str:
        if value.count("{letter}") != 1:
            raise ValueError("must contain {letter} exactly once")
        return value
