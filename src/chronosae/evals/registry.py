"""Every evaluation beside core, by name; each is loaded when it is first asked for."""

from importlib import import_module
from typing import Any

from chronosae.config import UserError
from chronosae.evals.evaluation import EvalOptions, Evaluation

_HOMES: dict[str, str] = {
    "sparse_probing": "sparse_probing",
    "unlearning": "unlearning",
    "absorption": "absorption",
    "order_probing": "order_probing",
    "ravel": "ravel",
    "scr": "scr_tpp.scr",
    "tpp": "scr_tpp.tpp",
    "autointerp": "autointerp",
}
"""Name -> module under `chronosae.evals` whose `EVALUATION` it is."""


def evaluation_names() -> list[str]:
    """All of them, in the order in which a run does them."""
    return list(_HOMES)


def find_evaluation(name: str) -> Evaluation[Any]:
    """The evaluation called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in _HOMES:
        raise UserError(f"no evaluation is called {name!r}; there are: core, {', '.join(_HOMES)}")
    return import_module(f"chronosae.evals.{_HOMES[name]}").EVALUATION


def read_eval_options(name: str, given: dict[str, Any]) -> EvalOptions:
    """Validated options of one evaluation.

    Raises:
        UserError: an unknown key or a bad value; the key is named.
    """
    from chronosae.config import validate

    return validate(find_evaluation(name).options, given, where="config", prefix=f"evals.{name}")
