"""The tasks of a run: their items for training and testing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from chronosae.config import UserError
from chronosae.evals.data import LABELLED
from chronosae.evals.order_probing.items import TokenItems, drawn, labelled_items
from chronosae.evals.order_probing.nback import n_back_items
from chronosae.evals.order_probing.options import OrderProbingOptions
from chronosae.evals.workbench import Workbench

NAME = "order_probing"
DATA_KEY = f"evals.{NAME}.data"
N_BACK_KEY = f"evals.{NAME}.n_back_data"


@dataclass(frozen=True)
class Task:
    """One question about tokens."""

    name: str
    train: TokenItems
    test: TokenItems
    left_out: int
    """Items whose group didn't fit into the context."""


def task_names(options: OrderProbingOptions) -> dict[str, str]:
    """Short name -> data set; short names are those of the metrics.

    Raises:
        UserError: two data sets share a short name.
    """
    names: dict[str, str] = {}
    for data in options.data:
        short = Path(data).stem
        if short in names:
            raise UserError(f"{DATA_KEY}: {names[short]} and {data} would both be called {short}; rename one")
        names[short] = data
    return names


def tasks(options: OrderProbingOptions, bench: Workbench) -> Iterator[Task]:
    """Every task, one after another."""
    for short, data in task_names(options).items():
        yield _labelled(options, bench, short, data)
    for n in options.n_back:
        yield _n_back(options, bench, n)


def _labelled(options: OrderProbingOptions, bench: Workbench, short: str, data: str) -> Task:
    parts, left_out = [], 0
    for split, n in (("train", options.train), ("test", options.test)):
        items, lost = labelled_items(bench, LABELLED.read(data, split, DATA_KEY), options.context, DATA_KEY)
        parts.append(drawn(items, n, bench.generator(NAME, LABELLED.label(data), split)))
        left_out += lost
    return Task(short, parts[0], parts[1], left_out)


def _n_back(options: OrderProbingOptions, bench: Workbench, n: int) -> Task:
    parts = []
    for split, wanted in (("train", options.train), ("test", options.test)):
        generator = bench.generator(NAME, LABELLED.label(options.n_back_data), str(n), split)
        texts = LABELLED.read(options.n_back_data, split, N_BACK_KEY).texts
        order = torch.randperm(len(texts), generator=generator).tolist()
        found = n_back_items(bench, [texts[i] for i in order], n, wanted, options.context, generator)
        parts.append(drawn(found, wanted, generator))
    return Task(f"n_back_{n}", parts[0], parts[1], 0)
