"""What every evaluation is: options, a preflight, and a run over several autoencoders that share a site."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from pydantic import ConfigDict

from chronosae.autoencoders import Autoencoder
from chronosae.config import Section
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.result import EvalResult
from chronosae.evals.workbench import Workbench


class EvalOptions(Section):
    """Base of the options of one evaluation: `evals.NAME` in a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


OptionsT = TypeVar("OptionsT", bound=EvalOptions)


class Evaluation(ABC, Generic[OptionsT]):
    """One evaluation. Instances hold nothing: the same one serves every run."""

    name: ClassVar[str]
    """Key under `evals` and folder of its results."""
    eval_type_id: ClassVar[str]
    """SAEBench's id, or our own for an evaluation that SAEBench doesn't have."""
    summary: ClassVar[str]
    """One line for people."""
    options: ClassVar[type[EvalOptions]]
    undefined: ClassVar[int | None] = None
    """What SAEBench's own fields hold where a metric is undefined: null, or -1 where its schema wants a number."""

    outward: ClassVar[tuple[str, ...]] = ()
    """Options that say what is sent where. `chronosae eval` takes them from its caller alone: the configuration in a
    run's folder may be a stranger's."""

    @abstractmethod
    def preflight(self, options: OptionsT, setting: Setting) -> list[Missing]:
        """Everything that is missing, found without computing anything; empty when `run` can start."""

    @abstractmethod
    def run(self, options: OptionsT, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """The result of each autoencoder by its name in `saes`; all of them read `bench.site`.

        The data are read and the subject is run once for all of them. Same seed, same numbers, whatever ran before and
        whichever autoencoders are beside it: randomness comes from `bench.generator`.
        """
