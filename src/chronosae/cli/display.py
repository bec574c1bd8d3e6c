"""Progress bars and the closing table of a run."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from chronosae.cli.exit_codes import FAILED, INTERRUPTED
from chronosae.config import RunConfig
from chronosae.pipeline import Interrupted, Reporter, run
from chronosae.report import comparison, print_table, read_runs
from chronosae.training import LogEvent


def quiet_libraries() -> None:
    """Keep other libraries' bars and advice out of ours; their errors stay."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Read when datasets is imported, which takes a while and most runs don't need.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="huggingface_hub")


def run_with_display(cfg: RunConfig, out_dir: Path, *, resume: bool, overwrite: bool) -> int:
    """`pipeline.run` with bars, then its table; returns the exit code."""
    quiet_libraries()
    console = Console()
    try:
        info = run(cfg, out_dir, resume=resume, overwrite=overwrite, reporter=RichReporter(console))
    except Interrupted as stop:
        console.print(str(stop), soft_wrap=True, markup=False)
        return INTERRUPTED
    print_table(comparison(read_runs([out_dir])), console)
    console.print(f"results: {out_dir}/final_info.json   in words: {out_dir}/notes.md", soft_wrap=True, markup=False)
    if all(not sae["metrics"] for sae in info["saes"].values()) and cfg.evals.core is not None:
        console.print("no autoencoder could be evaluated; see the flags above", markup=False)
        return FAILED
    return 0


class RichReporter(Reporter):
    """Bars on a terminal; a line for every tenth of the training elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._steps, self._said = 0, 0

    def note(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def phase(self, text: str) -> Iterator[None]:
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            self.note(text)
            yield

    @contextmanager
    def evaluation(self, text: str) -> Iterator[Callable[[str, int, int], None]]:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        task = bar.add_task(text, total=None)
        if not self.console.is_terminal:
            self.note(text)
        with bar:
            yield lambda what, done, total: bar.update(task, description=f"{text}: {what}", completed=done, total=total)

    @contextmanager
    def training(self, steps: int, start: int) -> Iterator[None]:
        self._steps, self._said = steps, start * 10 // max(steps, 1)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks = {"": self._progress.add_task("training", total=steps, completed=start, status="")}
        with self._progress:
            yield

    def trained(self, event: LogEvent) -> None:
        assert self._progress is not None
        self._progress.update(self._tasks[""], completed=event.step, status=f"{event.tokens_per_s:,.0f} tokens/s")
        states = {
            name: f"loss {metrics.loss:.3g}  L0 {metrics.l0:.1f}  dead {metrics.dead}"
            for name, metrics in event.metrics.items()
        }
        for name, state in states.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=self._steps, status="")
            self._progress.update(self._tasks[name], completed=event.step, status=state)
        if not self.console.is_terminal and event.step * 10 // self._steps > self._said:
            self._said = event.step * 10 // self._steps
            summary = "; ".join(f"{name}: {state}" for name, state in states.items())
            self.note(f"step {event.step:,}/{self._steps:,}, {event.tokens_per_s:,.0f} tokens/s; {summary}")
