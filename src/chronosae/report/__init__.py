"""Run folders in words, tables and figures. Numbers come from the files alone: no model, no torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronosae.config.run_folder import SAEResult
    from chronosae.report.compare import Comparison, Row, comparison
    from chronosae.report.figures import plot_comparison
    from chronosae.report.notes import previous_run, write_notes
    from chronosae.report.runs import Run, read_run, read_runs
    from chronosae.report.statistics import Estimate
    from chronosae.report.table import print_table, to_csv, to_json, to_rich

# Public name -> module; loaded on first use, so that `compare` never waits for matplotlib.
_EXPORTS = {
    "Comparison": "compare",
    "Estimate": "statistics",
    "Row": "compare",
    "Run": "runs",
    "SAEResult": "runs",
    "comparison": "compare",
    "plot_comparison": "figures",
    "previous_run": "notes",
    "print_table": "table",
    "read_run": "runs",
    "read_runs": "runs",
    "to_csv": "table",
    "to_json": "table",
    "to_rich": "table",
    "write_notes": "notes",
}

__all__ = [
    "Comparison",
    "Estimate",
    "Row",
    "Run",
    "SAEResult",
    "comparison",
    "plot_comparison",
    "previous_run",
    "print_table",
    "read_run",
    "read_runs",
    "to_csv",
    "to_json",
    "to_rich",
    "write_notes",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'chronosae.report' has no attribute {name!r}")
    return getattr(importlib.import_module(f"chronosae.report.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
