"""What a run says while it works. The base class says nothing; the command line draws bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chronosae.training import LogEvent


class Reporter:
    """Receives the progress of a run."""

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
