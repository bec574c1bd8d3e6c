"""What benchmarks of our own share: sub-commands, tasks that take turns, and what is told of the machine."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from chronosae.activations import SequenceBatch
from chronosae.config import TrainingConfig
from chronosae.kernels import dense_only
from chronosae.presets import build
from chronosae.training import Trainee

Task = Callable[[], Any]
Round = dict[str, float]
Command = Callable[[list[str]], int]
"""A benchmark: from the words behind its name to the exit code. Its documentation is what `--help` tells."""


def command_line(commands: Iterable[Command]) -> int:
    """The benchmark that the command line names, with the words behind it; returns the exit code."""
    known = {command.__name__: command for command in commands}
    options = argparse.ArgumentParser(epilog="each tells its options with --help")
    options.add_argument("benchmark", choices=known)
    name = options.parse_args(sys.argv[1:2]).benchmark
    return known[name](sys.argv[2:])


def bare_parser(command: Command, repeats: int | None) -> argparse.ArgumentParser:
    """The options that every one has."""
    options = argparse.ArgumentParser(
        prog=f"{Path(sys.argv[0]).name} {command.__name__}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--json", action="store_true", help="one JSON object as the last line")
    if repeats is not None:
        options.add_argument("--repeats", type=int, default=repeats)
    return options


def parser(command: Command, repeats: int) -> argparse.ArgumentParser:
    """The options of those that take turns."""
    options = bare_parser(command, repeats)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument(
        "--cpu", action="store_true", help="seconds of CPU instead of the clock's; with --threads 1, on a busy machine"
    )
    return options


def tell(result: dict[str, Any], args: argparse.Namespace) -> int:
    """Print the result where it was asked for; the exit code, 1 for a promise that is broken."""
    if args.json:
        print(json.dumps(result))
    return 0 if result.get("ok", True) else 1


def machine() -> str:
    """Kind and number of its processors."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def about(args: argparse.Namespace) -> dict[str, Any]:
    """How and where it was measured."""
    return {
        "repeats": args.repeats,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "measured": "seconds of CPU" if args.cpu else "seconds",
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def take_turns(work: dict[str, Task], repeats: int, warmup: int, cpu: bool) -> list[Round]:
    """Seconds of each task in each round, those of the first `warmup` left out."""
    clock = time.process_time if cpu else time.perf_counter
    rounds = [{name: _seconds(task, clock) for name, task in work.items()} for _ in range(warmup + repeats)]
    return rounds[warmup:]


def _seconds(task: Task, clock: Callable[[], float]) -> float:
    start = clock()
    task()
    return clock() - start


def middle(values: Iterable[float], digits: int = 3) -> float:
    """Their median."""
    return round(statistics.median(values), digits)


def spread(values: Iterable[float], digits: int = 3) -> list[float]:
    """The least and the largest."""
    known = list(values)
    return [round(min(known), digits), round(max(known), digits)]


def encoder_product(tokens: int, d_in: int, d_sae: int) -> Task:
    """In bfloat16, into memory that is there: what every step needs at least."""
    x, W = torch.randn(tokens, d_in).bfloat16(), torch.randn(d_in, d_sae).bfloat16()
    out = torch.empty(tokens, d_sae, dtype=torch.bfloat16)
    return lambda: torch.mm(x, W, out=out)


def training_step(preset: str, options: dict[str, Any], size: dict[str, int], dense: bool = False) -> Task:
    """A trainer's whole step on noise; `dense`: in plain torch."""
    kernels = dense_only if dense else nullcontext
    with kernels():
        sae = build(preset, **{name: size[name] for name in ("d_in", "d_sae", "k")}, **options)
        trainee = Trainee(preset, sae, "site", TrainingConfig(), steps=10**6, lr=1e-4, seed=0)
    batch = noise(size["tokens"], size["context"], size["d_in"])

    def step() -> None:
        with kernels():
            trainee.step(batch)
        assert trainee.stopped is None, trainee.stopped

    return step


def noise(tokens: int, context: int, d_in: int) -> SequenceBatch:
    """The same for everyone who asks."""
    shape = (tokens // context, context)
    return SequenceBatch(
        acts=torch.randn(*shape, d_in, generator=torch.Generator().manual_seed(0)),
        mask=torch.ones(shape, dtype=torch.bool),
        tokens=torch.zeros(shape, dtype=torch.int64),
        positions=torch.arange(context).expand(shape).contiguous(),
        doc_ids=torch.zeros(shape, dtype=torch.int64),
        source=("noise",) * shape[0],
    )
