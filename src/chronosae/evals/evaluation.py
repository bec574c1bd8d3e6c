"""What every evaluation is: options, a preflight, and a run over several autoencoders that share a site."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from chronosae.autoencoders import Autoencoder
from chronosae.config import Section, validate
from chronosae.config.registry import Registry
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench

EVALUATIONS: Registry["Evaluation"] = Registry(
    "evaluation",
    {
        name: f"chronosae.evals.{home}"
        for name, home in {
            "sparse_probing": "sparse_probing.evaluation",
            "unlearning": "unlearning.evaluation",
            "absorption": "absorption.evaluation",
            "order_probing": "order_probing.evaluation",
            "ravel": "ravel.evaluation",
            "scr": "scr_tpp.scr",
            "tpp": "scr_tpp.tpp",
            "autointerp": "autointerp.evaluation",
        }.items()
    },
)
"""Every evaluation by name, in the order in which a run does them; each is imported when it is first asked for."""


class EvalOptions(Section):
    """Base of the options of one evaluation: `evals.NAME` in a configuration."""


class Evaluation(EvalOptions, ABC):
    """One evaluation with its options, which are its fields; the first line of its docstring is what it is."""

    name: ClassVar[str]
    """Key under `evals` and folder of its results."""
    eval_type_id: ClassVar[str]
    """SAEBench's id, or our own for an evaluation that SAEBench doesn't have."""
    undefined: ClassVar[int | None] = None
    """What SAEBench's own fields hold where a metric is undefined: null, or -1 where its schema wants a number."""
    outward: ClassVar[tuple[str, ...]] = ()
    """Options that say what is sent where. `chronosae eval` takes them from its caller alone: the configuration in a
    run's folder may be a stranger's."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
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
