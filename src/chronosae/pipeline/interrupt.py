"""Ctrl-C and SIGTERM during training: finish the step, save, and say how to go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def resume_command(folder: Path) -> str:
    """What to type to go on."""
    return f"chronosae run {folder / 'config.yaml'} --out-dir {folder} --resume"


class Interrupted(Exception):
    """A run was stopped on request and can be continued."""

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        super().__init__(f"stopped at step {step:,} of {steps:,}, all saved; continue with: {resume_command(folder)}")


class StopRequest:
    """Set by the first signal; a second one interrupts at once."""

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
