"""What every evaluation is: options, a preflight, a run over autoencoders that share a site; and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from chronosae.autoencoders import Autoencoder
from chronosae.config import Section, validate
from chronosae.config.registry import Registry
from chronosae.evals.bootstrap import Interval
from chronosae.evals.workbench import Workbench
from chronosae.subject import SubjectInfo

Flat = Mapping[str, float | None]

EVALUATIONS: Registry["Evaluation"] = Registry(
    "evaluation",
    {
        name: f"chronosae.evals.{home}"
        for name, home in {
            "core": "core.evaluation",
            "sparse_probing": "sparse_probing.evaluation",
            "unlearning": "unlearning.evaluation",
            "absorption": "absorption.evaluation",
            "order_probing": "order_probing.evaluation",
            "ravel": "ravel.evaluation",
            "scr": "scr_tpp.evaluation",
            "tpp": "scr_tpp.evaluation",
            "autointerp": "autointerp.evaluation",
        }.items()
    },
)
"""Every evaluation by name, in the order in which a run does them; each is imported when it is first asked for."""


@dataclass(frozen=True)
class Missing:
    """One thing that an evaluation needs and doesn't have."""

    what: str
    """Such as `the data set LabHC/bias_in_bios`."""
    why: str
    """What happened when it was looked for."""
    how: str
    """What to do: the flag or key to set, the command to run."""

    def line(self) -> str:
        """For people."""
        return f"{self.what}: {self.why}; {self.how}"


@dataclass(frozen=True)
class Setting:
    """What is known before the subject is loaded."""

    subject: str
    """Name of the subject as configured: `world`, a folder, a hub name."""
    info: SubjectInfo | None
    """Its shape; None where it can't be reached."""
    device: str = "cpu"
    d_sae: dict[str, int] = field(default_factory=dict)
    """Width of each autoencoder."""


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation returns for one autoencoder: metrics, what they rest on, what a reader must know beside them.

    Undefined is None, never NaN: files of results refuse NaN and Inf.
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
    resample_seed: int | None = None
    """Of the draws, where a reader should be able to repeat them."""
    flags: tuple[str, ...] = ()
    """`name` or `name: explanation`; every name is explained in the evaluation's page."""
    block: Mapping[str, Any] = field(default_factory=dict)
    """More for the `chronosae` block: controls, baselines, anything that isn't SAEBench's."""
    by_name: Flat | None = None
    """Metrics without their categories, where those aren't simply all in `metrics`."""
    context: int = 0
    """Length of the contexts that were evaluated; 0 where they differ."""
    wall_seconds: float = 0.0

    @property
    def flat(self) -> dict[str, float | None]:
        """Metrics without their categories."""
        if self.by_name is not None:
            return dict(self.by_name)
        return {name: value for values in self.metrics.values() for name, value in values.items()}

    def after(self, seconds: float) -> "EvalResult":
        """The same result with its wall time."""
        return replace(self, wall_seconds=seconds)


class EvalOptions(Section):
    """Base of the options of one evaluation: `evals.NAME` in a configuration."""


class Evaluation(EvalOptions, ABC):
    """One evaluation with its options, which are its fields; the first line of its docstring is what it is.

    `@EVALUATIONS.add` makes it known by name, in configurations and on the command line.
    """

    name: ClassVar[str]
    """Key under `evals` and folder of its results."""
    eval_type_id: ClassVar[str]
    """SAEBench's id, or our own for an evaluation that SAEBench doesn't have."""
    headline: ClassVar[Mapping[str, str]] = {}
    """Metric -> its title in tables, for the few that are compared and tested."""
    undefined: ClassVar[int | None] = None
    """What SAEBench's own fields hold where a metric is undefined: null, or -1 where its schema wants a number."""
    outward: ClassVar[tuple[str, ...]] = ()
    """Options that say what is sent where. `chronosae eval` takes them from its caller alone: the configuration in a
    run's folder may be a stranger's."""
    own_text: ClassVar[bool] = False
    """It reads the run's held-out text (`bench.heldout`), whose absence is told before training."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Evaluation":
        """The evaluation with these options.

        Raises:
            UserError: an unknown key or a bad value; the key is named.
        """
        return validate(cls, dict(given), where="config", prefix=f"evals.{cls.name}")

    def preflight(self, setting: Setting) -> list[Missing]:
        """Everything that is missing, found without computing anything; empty when `run` can start."""
        return []

    @abstractmethod
    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """The result of each autoencoder by its name in `saes`; all of them read `bench.site`.

        The data are read and the subject is run once for all of them. Same seed, same numbers, whatever ran before and
        whichever autoencoders are beside it: randomness comes from `bench.generator`.
        """
