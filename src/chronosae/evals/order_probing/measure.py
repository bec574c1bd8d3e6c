"""Which test items each probe of one task gets right."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.evals.order_probing import features
from chronosae.evals.order_probing.features import Features, entries
from chronosae.evals.order_probing.items import TokenItems
from chronosae.evals.order_probing.probes import Split, full_probe, sparse_probe
from chronosae.evals.order_probing.tasks import NAME, Task
from chronosae.evals.pooling import RAW
from chronosae.evals.workbench import Workbench

FULL = "full"
FEWEST = 20
"""Items of each label that training and test must have."""
VALIDATION_SHARE = 4
CONTROLS = ("position", "identity", "bag", "shuffled")
"""What knows nothing of order."""
SO_FAR = "bag_so_far"
"""What came before and how often: it knows order in part, by the border between before and after."""

Right = dict[str, np.ndarray]
"""Name of a probe -> which test items it gets right, bool."""


@dataclass(frozen=True)
class TaskOutcome:
    """One task. A task with too few items has no probes."""

    task: Task
    raw: Right
    """`full` and `top_K` probes of the raw activations."""
    controls: Right
    """Probes without activations: `CONTROLS` less the shuffled labels, and `SO_FAR`."""
    saes: dict[str, Right | None]
    """The same as `raw` for each autoencoder, and `shuffled`; None where its codes hold NaN or Inf."""
    silent: tuple[str, ...]
    """Autoencoders of which no feature fired at a training item."""

    @property
    def groups(self) -> Int[Tensor, " items"]:
        """Groups of the test items."""
        return self.task.test.group


def enough(task: Task) -> bool:
    """Both labels have `FEWEST` items in both parts."""
    return all(min(int(i.label.sum()), int((~i.label).sum())) >= FEWEST for i in (task.train, task.test))


def measure(
    bench: Workbench, task: Task, saes: Mapping[str, Autoencoder], k: tuple[int, ...], vocabulary: int
) -> TaskOutcome:
    """Fit and test every probe of a task."""
    if not enough(task):
        return TaskOutcome(task, {}, {}, dict.fromkeys(saes), ())
    split = _split(bench, task)
    train = features.at_tokens(bench, task.train, saes, f"{NAME} {task.name} train")
    test = features.at_tokens(bench, task.test, saes, f"{NAME} {task.name} test")
    shuffled = torch.randperm(len(task.train), generator=bench.generator(NAME, task.name, "shuffled")).numpy()
    found: dict[str, Right | None] = {}
    for name in saes:
        if not (np.isfinite(entries(train[name])).all() and np.isfinite(entries(test[name])).all()):
            found[name] = None
            continue
        wrong = Split(split.train[shuffled], split.validation, split.test)
        found[name] = _probes(train[name], test[name], split, k) | {
            "shuffled": full_probe(train[name], test[name], wrong)
        }
    return TaskOutcome(
        task,
        _probes(train[RAW], test[RAW], split, k),
        _controls(task, split, vocabulary),
        found,
        tuple(name for name in saes if not entries(train[name]).any()),
    )


def _probes(train: Features, test: Features, split: Split, k: tuple[int, ...]) -> Right:
    sparse = {f"top_{n}": sparse_probe(train, test, split, n) for n in k}
    return {FULL: full_probe(train, test, split)} | sparse


def _controls(task: Task, split: Split, vocabulary: int) -> Right:
    def items(part: TokenItems) -> dict[str, Features]:
        return {
            "identity": features.identity(part, vocabulary),
            "bag": features.bag(part, vocabulary, so_far=False),
            SO_FAR: features.bag(part, vocabulary, so_far=True),
        }

    train, test = items(task.train), items(task.test)
    train["position"], test["position"] = features.position(task.train, task.test)
    return {name: full_probe(train[name], test[name], split) for name in sorted(train)}


def _split(bench: Workbench, task: Task) -> Split:
    groups = task.train.group.unique()
    order = torch.randperm(len(groups), generator=bench.generator(NAME, task.name, "validation"))
    held = groups[order[: max(1, len(groups) // VALIDATION_SHARE)]]
    return Split(task.train.label.numpy(), torch.isin(task.train.group, held).numpy(), task.test.label.numpy())
