"""`chronosae eval` on a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chronosae.cli.display import RichReporter, quiet_libraries
from chronosae.cli.exit_codes import FAILED, USER_ERROR
from chronosae.config.reference import entries
from chronosae.config.registry import summary_of
from chronosae.evals import EVALUATIONS
from chronosae.pipeline.evaluations import Job, evaluate_run, parse_names, plan_job


def evaluate_with_display(
    folder: Path,
    evals: str,
    overrides: Sequence[str],
    saes: Sequence[str],
    device: str | None,
    cache_dir: Path | None,
    preflight: bool,
) -> int:
    """Preflight, evaluations with bars, then where the results are; returns the exit code."""
    quiet_libraries()
    names, everything = parse_names(evals)
    job = plan_job(folder, names, overrides, saes, device)
    console = Console()
    if preflight:
        return _print_preflight(job, console)
    info = evaluate_run(job, RichReporter(console), cache_dir, skip_missing=everything)
    failed = [flag for flag in info["flags"] if flag.startswith("not_evaluated")]
    for flag in failed:
        console.print(flag, soft_wrap=True, markup=False)
    console.print(f"results: {folder}/evals   in words: {folder}/notes.md", soft_wrap=True, markup=False)
    return FAILED if failed else 0


def _print_preflight(job: Job, console: Console) -> int:
    for one in job.chosen:
        lacks = job.lacking.get(one.name, [])
        console.print(f"{one.name}: {'ready' if not lacks else 'lacks'}", markup=False)
        for lack in lacks:
            console.print(f"  {lack.line()}", soft_wrap=True, markup=False)
    return USER_ERROR if job.lacking else 0


def print_options(name: str) -> None:
    """Every option of an evaluation with its type, default and meaning."""
    evaluation = EVALUATIONS.find(name)
    console = Console()
    console.print(f"{evaluation.name}: {summary_of(evaluation)}\n", soft_wrap=True, markup=False)
    for entry in entries(evaluation, f"evals.{name}."):
        line = f"{entry.key}  ({entry.type}; default {entry.default})\n    {entry.doc}"
        console.print(line, soft_wrap=True, markup=False)
