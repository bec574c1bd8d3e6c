"""What benchmarks against other libraries share: their environment, their processes, and the ratios to ours."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers" / "bin" / "python"
"""The Python they are installed for, at versions of their own."""


def require_peers() -> None:
    """End with one line where they are not installed."""
    if not PEERS.is_file():
        raise SystemExit("the other libraries are not installed; run: make peers")


def environment(threads: int, **more: str) -> dict[str, str]:
    """A process's: as many threads as told, nothing from a hub."""
    alone = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **alone, "OMP_NUM_THREADS": str(threads), **more}


class Worker:
    """A library's process: it does its task once for every line it reads, and answers with a line of numbers."""

    def __init__(self, name: str, command: Sequence[str | Path], variables: dict[str, str]) -> None:
        self.name = name
        words, pipe = [str(part) for part in command], subprocess.PIPE
        self.process = subprocess.Popen(words, text=True, env=variables, stdin=pipe, stdout=pipe, stderr=pipe)

    def ask(self) -> list[float]:
        """The numbers it answers with."""
        stdin, stdout, stderr = self.process.stdin, self.process.stdout, self.process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        try:
            print(file=stdin, flush=True)
            answer = [float(word) for word in stdout.readline().split()]
        except (ValueError, BrokenPipeError):
            answer = []
        if not answer:
            last = "\n".join(stderr.read().splitlines()[-8:])
            raise SystemExit(f"{self.name} failed:\n{last}")
        return answer

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()


def ratio_and_spread(rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Median, least and largest of each one's ratios."""
    known = {name: sorted(found) for name, found in rounds.items()}
    return {
        "ratio": {name: round(statistics.median(found), 3) for name, found in known.items()},
        "spread": {name: [round(found[0], 3), round(found[-1], 3)] for name, found in known.items()},
    }


def versions(python: Path | str, *names: str) -> dict[str, str]:
    """Of those packages that this Python has."""
    code = (
        "import importlib.metadata as m, json;"
        "there = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()};"
        f"print(json.dumps({{n: there[n] for n in {names!r} if n in there}}))"
    )
    return json.loads(subprocess.check_output([str(python), "-c", code], text=True))


def python_of(ours: bool) -> Path:
    """This one for our own side, the peers' for theirs."""
    return Path(sys.executable) if ours else PEERS
