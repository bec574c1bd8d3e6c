"""Options of `order_probing`."""

from pydantic import Field, PositiveInt

from chronosae.evals.evaluation import EvalOptions


class OrderProbingOptions(EvalOptions):
    """`evals.order_probing` in a configuration."""

    data: tuple[str, ...] = (
        "world/order_role",
        "world/order_mention",
        "world/order_bracket",
        "world/order_place",
    )
    """Labelled texts with spans and two labels: registered names, or local .jsonl with text, label, start, end."""
    n_back: tuple[PositiveInt, ...] = (3, 5)
    """Distances of the n-back tasks; none: no n-back."""
    n_back_data: str = "world/topic"
    """Texts of the n-back tasks; their labels aren't used."""
    k: tuple[PositiveInt, ...] = Field(default=(1, 5, 20), min_length=1)
    """Features of the sparse probes."""
    train: int = Field(default=800, ge=40)
    """Items (tokens) for fitting, a task."""
    test: int = Field(default=600, ge=40)
    """Items for testing, a task."""
    context: int = Field(default=256, ge=8)
    """Longest context in tokens."""
