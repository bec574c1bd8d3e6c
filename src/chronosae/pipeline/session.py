"""What a run and whoever started it tell each other: progress outwards, a request to stop inwards."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from chronosae.config.run_folder import CONFIG
from chronosae.training import LogEvent


class Reporter:
    """Receives the progress of a run. This one says nothing; the command line draws bars."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    @contextmanager
    def phase(self, text: str) -> Iterator[None]:
        """Something that takes a while and has no count."""
        yield

    @contextmanager
    def evaluation(self, text: str) -> Iterator[Callable[[str, int, int], None]]:
        """An evaluation; what it yields is told what is being done, how much of it is done and how much there is."""
        yield lambda what, done, total: None

    @contextmanager
    def training(self, steps: int, start: int) -> Iterator[None]:
        """Training, from step `start` to `steps`."""
        yield

    def trained(self, event: LogEvent) -> None:
        """Progress within `training`."""


def resume_command(folder: Path) -> str:
    """What to type to go on."""
    return f"chronosae run {folder / CONFIG} --out-dir {folder} --resume"


class Interrupted(Exception):
    """A run was stopped on request and can be continued."""

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        super().__init__(f"stopped at step {step:,} of {steps:,}, all saved; continue with: {resume_command(folder)}")


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM: training finishes its step and saves. A second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """A `StopRequest` that listens to SIGINT and SIGTERM while the block runs (in the main thread only)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
