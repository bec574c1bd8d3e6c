"""Options of `ravel`."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from chronosae.evals.evaluation import EvalOptions


class RavelOptions(EvalOptions):
    """`evals.ravel` in a configuration."""

    data: tuple[str, ...] = Field(default=("world/geography", "world/history"), min_length=1)
    """Sets of entities with attributes: registered names, or local .jsonl files."""
    protocol: Literal["chronosae", "saebench"] = "chronosae"
    """What replaces the activation: `chronosae` keeps what the autoencoder doesn't reconstruct, `saebench` drops it."""
    tokens: Literal["entity", "last"] | None = None
    """Where activations are exchanged: at all tokens of the entity's name, or at the last; absent, `entity` for the
    protocol `chronosae` and `last` for `saebench`."""
    templates: PositiveInt = 1
    """Prompts an attribute, the first of each."""
    train_share: float = Field(default=0.6, gt=0, lt=1)
    """Share of the entities on which features are chosen; the others are for the score."""
    train_pairs: int = Field(default=192, ge=2)
    """Pairs of entities an attribute for choosing features."""
    test_pairs: int = Field(default=48, ge=8)
    """Pairs of entities an attribute for the score."""
    steps: PositiveInt = 60
    """Steps of Adam for one attribute's mask."""
    batch: int = Field(default=32, ge=2)
    """Pairs a step, half of them to change the attribute, half to keep others."""
    lr: PositiveFloat = 0.1
    """Learning rate of the mask."""
    end_temperature: float = Field(default=0.01, gt=0, le=1)
    """The mask is sigmoid(m / T); T falls from 1 to this, by the same factor at each step."""
    context: int = Field(default=128, ge=8)
    """Longest prompt in tokens; longer ones are left out."""

    @model_validator(mode="after")
    def _as_the_protocol_is(self) -> "RavelOptions":
        if self.protocol == "saebench" and self.tokens == "entity":
            raise ValueError("protocol saebench exchanges the last token; for entity take protocol chronosae")
        return self

    @property
    def last_only(self) -> bool:
        """Only the entity's last token is exchanged."""
        return (self.tokens or ("last" if self.protocol == "saebench" else "entity")) == "last"
