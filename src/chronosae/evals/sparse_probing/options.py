"""Options of the sparse-probing evaluation, and what each protocol fixes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from chronosae.evals.evaluation import EvalOptions
from chronosae.evals.pooling import Pooling

SAEBENCH_K = (1, 2, 5, 10, 20, 50, 100)
"""The numbers of features for which SAEBench has a metric."""


@dataclass(frozen=True)
class Protocol:
    """What a protocol says where the options say nothing."""

    k: tuple[int, ...]
    pooling: Pooling
    most_train_rows: int | None = None
    """Training texts of a task beyond which the protocol uses none."""


PROTOCOLS = {
    "chronosae": Protocol(SAEBENCH_K, "mean"),
    "saebench": Protocol((1, 2, 5), "mean"),
    "sae_probes": Protocol((1, 2, 5), "last", most_train_rows=1024),
}


class SparseProbingOptions(EvalOptions):
    """Sparse probing: how well k features alone tell a text's class."""

    data: list[str] = Field(default=["world/subject", "world/kind", "world/topic"], min_length=1)
    """Labelled texts: `world/...` names, SAEBench's hub sets, local .jsonl files or folders."""
    protocol: Literal["chronosae", "saebench", "sae_probes"] = "chronosae"
    """`chronosae` (nothing is chosen on the test), `saebench` or `sae_probes` (theirs, their flaws included)."""
    k: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    """Numbers of features; absent, the protocol's: 1, 2, 5, 10, 20, 50, 100, or 1, 2, 5 for the other two."""
    pooling: Pooling | None = None
    """One vector a text: `mean`, `max` or `last` token; absent, the protocol's (`last` for sae_probes, else `mean`)."""
    train_rows: Annotated[int, Field(ge=40)] = 4000
    """Most training texts of one class against the rest, half of them of the class."""
    test_rows: Annotated[int, Field(ge=20)] = 1000
    """Most test texts of one class against the rest, half of them of the class."""
    context: Annotated[int, Field(ge=2)] = 128
    """Tokens of a text that are read, BOS included."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training texts on which `chronosae` chooses when to stop the full-width probe."""
    zero_special: bool = True
    """Only for `saebench`: special positions and padding are zeroed before encoding, as SAEBench does."""

    @model_validator(mode="after")
    def _as_the_protocol_is(self) -> "SparseProbingOptions":
        fixed = PROTOCOLS[self.protocol].pooling
        if self.protocol != "chronosae" and self.pooling not in (None, fixed):
            raise ValueError(f"protocol {self.protocol} pools by {fixed}; for {self.pooling} take protocol chronosae")
        if len(set(self.ks)) != len(self.ks):
            raise ValueError("k holds the same number twice")
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of features that are probed."""
        return PROTOCOLS[self.protocol].k if self.k is None else tuple(self.k)

    @property
    def pool(self) -> Pooling:
        """How a text becomes one vector."""
        return self.pooling or PROTOCOLS[self.protocol].pooling

    @property
    def rows(self) -> dict[str, int]:
        """Most texts of a task, by split."""
        most = PROTOCOLS[self.protocol].most_train_rows
        return {"train": self.train_rows if most is None else min(self.train_rows, most), "test": self.test_rows}
