"""What an evaluation returns for one autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chronosae.evals.bootstrap import Interval

Flat = Mapping[str, float | None]


@dataclass(frozen=True)
class EvalResult:
    """Metrics, what they rest on, and what a reader must know beside them.

    Undefined is None, never NaN: `output` refuses NaN and Inf.
    """

    metrics: Mapping[str, Flat]
    """Category -> flat metrics, under SAEBench's names where it has them."""
    eval_config: Mapping[str, Any]
    """SAEBench's `eval_config`: what its own configuration would have had to be."""
    data_sha256: str
    """Hash over the token sequences (and labels) that were evaluated."""
    details: tuple[Mapping[str, Any], ...] = ()
    """Flat rows: one a data set, letter, class ..."""
    unstructured: Mapping[str, Any] = field(default_factory=dict)
    """SAEBench's `eval_result_unstructured`."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 % intervals of metrics by name, over resampled examples."""
    resampled: str = "examples"
    """What the intervals resample."""
    flags: tuple[str, ...] = ()
    """`name` or `name: explanation`; every name is explained in the evaluation's page."""
    block: Mapping[str, Any] = field(default_factory=dict)
    """More for the `chronosae` block: controls, baselines, anything that isn't SAEBench's."""
    wall_seconds: float = 0.0

    @property
    def flat(self) -> dict[str, float | None]:
        """Metrics without their categories."""
        return {name: value for values in self.metrics.values() for name, value in values.items()}

    def after(self, seconds: float) -> "EvalResult":
        """The same result with its wall time."""
        return replace(self, wall_seconds=seconds)
