"""Which test items each probe of a task gets right: on codes, on raw activations, and on what knows no order."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array, hstack
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.order_probing.data import NAME, OrderProbingOptions, Task, TokenItems, read_tasks
from chronosae.evals.probes import RAW, fit_logistic
from chronosae.evals.workbench import Workbench

FULL = "full"
FEWEST = 20
"""Items of each label that training and test must have."""
VALIDATION_SHARE = 4
CONTROLS = ("position", "identity", "bag", "shuffled")
"""What knows nothing of order."""
SO_FAR = "bag_so_far"
"""What came before and how often: it knows order in part, by the border between before and after."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse penalties among which the validation part chooses for a probe on all features."""
BINS = 16

Features = csr_array | np.ndarray
"""`[items, columns]`, in double precision."""
Right = dict[str, np.ndarray]
"""Name of a probe -> which test items it gets right, bool."""


@dataclass(frozen=True)
class Split:
    """Rows for fitting, the part of them that chooses the penalty, and labels."""

    train: np.ndarray
    """Labels of the training items, bool."""
    validation: np.ndarray
    """Which training items choose the penalty, bool; whole groups."""
    test: np.ndarray
    """Labels of the test items, bool."""


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


@dataclass(frozen=True)
class Measured:
    """All tasks."""

    outcomes: tuple[TaskOutcome, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of all tasks' tokens, places and labels."""
        digest = hashlib.sha256()
        for task in (outcome.task for outcome in self.outcomes):
            for items in (task.train, task.test):
                digest.update(f"{task.name} {items.rows.sha256()}".encode())
                for part in (items.row, items.pos, items.label, items.group):
                    digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def measure(options: OrderProbingOptions, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
    """Fit and test every probe of every task.

    Raises:
        UserError: data without spans or without exactly two labels.
    """
    return Measured(tuple(_measure(options, bench, task, saes) for task in read_tasks(options, bench)))


def _measure(
    options: OrderProbingOptions, bench: Workbench, task: Task, saes: Mapping[str, Autoencoder]
) -> TaskOutcome:
    if not _enough(task):
        return TaskOutcome(task, {}, {}, dict.fromkeys(saes), ())
    split = _split(bench, task)
    train = _at_tokens(bench, task.train, saes, f"{NAME} {task.name} train")
    test = _at_tokens(bench, task.test, saes, f"{NAME} {task.name} test")
    shuffled = torch.randperm(len(task.train), generator=bench.generator(NAME, task.name, "shuffled")).numpy()
    wrong = Split(split.train[shuffled], split.validation, split.test)
    found: dict[str, Right | None] = dict.fromkeys(saes)
    for name in saes:
        if all(np.isfinite(_stored(part[name])).all() for part in (train, test)):
            right = _probes(train[name], test[name], split, options.k)
            found[name] = right | {"shuffled": full_probe(train[name], test[name], wrong)}
    return TaskOutcome(
        task,
        _probes(train[RAW], test[RAW], split, options.k),
        _controls(task, split, max(len(bench.subject.tokenizer), bench.subject.vocab_size)),
        found,
        tuple(name for name in saes if not _stored(train[name]).any()),
    )


def _enough(task: Task) -> bool:
    """Both labels have `FEWEST` items in both parts."""
    return all(min(int(i.label.sum()), int((~i.label).sum())) >= FEWEST for i in (task.train, task.test))


def _split(bench: Workbench, task: Task) -> Split:
    groups = task.train.group.unique()
    order = torch.randperm(len(groups), generator=bench.generator(NAME, task.name, "validation"))
    held = groups[order[: max(1, len(groups) // VALIDATION_SHARE)]]
    return Split(task.train.label.numpy(), torch.isin(task.train.group, held).numpy(), task.test.label.numpy())


def _probes(train: Features, test: Features, split: Split, k: tuple[int, ...]) -> Right:
    sparse = {f"top_{n}": sparse_probe(train, test, split, n) for n in k}
    return {FULL: full_probe(train, test, split)} | sparse


def _controls(task: Task, split: Split, vocabulary: int) -> Right:
    def items(part: TokenItems) -> dict[str, Features]:
        return {
            "identity": _identity(part, vocabulary),
            "bag": _bag(part, vocabulary, so_far=False),
            SO_FAR: _bag(part, vocabulary, so_far=True),
        }

    train, test = items(task.train), items(task.test)
    train["position"], test["position"] = _position(task.train, task.test)
    return {name: full_probe(train[name], test[name], split) for name in sorted(train)}


def mean_difference(x: Features, y: np.ndarray) -> np.ndarray:
    """|mean over True - mean over False| of each column."""
    return np.abs(np.asarray(x[y].mean(axis=0)) - np.asarray(x[~y].mean(axis=0))).ravel()


def sparse_probe(train: Features, test: Features, split: Split, k: int) -> np.ndarray:
    """Which test items a probe on the `k` columns of largest mean difference gets right (penalty 1, as SAEBench).

    Columns are chosen on the training items alone; equal ones by number.
    """
    columns = np.argsort(-mean_difference(train, split.train), kind="stable")[:k]
    train, test = (x if isinstance(x, np.ndarray) else x.toarray() for x in (train[:, columns], test[:, columns]))
    return _right(train, test, split, 1.0)


def full_probe(train: Features, test: Features, split: Split) -> np.ndarray:
    """Which test items a probe on all columns gets right; its penalty is the best on the validation items."""
    if isinstance(train, csr_array):
        # A column that is silent in training gets no weight whatever happens.
        used = np.flatnonzero(np.bincount(train.indices, minlength=_width(train)))
        train, test = csr_array(train[:, used]), csr_array(test[:, used])
    fit, held = ~split.validation, split.validation
    inner = Split(split.train[fit], np.zeros(int(fit.sum()), bool), split.train[held])
    if len(set(inner.train)) < 2 or not held.any():
        return _right(train, test, split, 1.0)
    scores = [float(_right(train[fit], train[held], inner, c).mean()) for c in STRENGTHS]
    return _right(train, test, split, STRENGTHS[int(np.argmax(scores))])


def _right(train: Features, test: Features, split: Split, strength: float) -> np.ndarray:
    """Fit on all training items, predict the test items."""
    if _width(train) == 0:
        return ~split.test
    if isinstance(train, np.ndarray):
        # The intercept isn't penalised: centring changes nothing but the speed.
        mean = train.mean(axis=0)
        train, test = train - mean, test - mean
    # One number for all columns, so that the penalty means the same in any units and features keep their proportions.
    scale = float(np.sqrt((train * train).mean())) or 1.0
    probe = fit_logistic(train / scale, split.train, strength)
    return np.asarray(probe.predict(test / scale) == split.test)


def _width(x: Any) -> int:
    # scipy's annotations allow a matrix without a shape.
    return int(x.shape[1])


def _at_tokens(bench: Workbench, items: TokenItems, saes: Mapping[str, Autoencoder], what: str) -> dict[str, Features]:
    """Codes of each autoencoder by name, and raw activations under `RAW`, at the items' tokens.

    Whole contexts are encoded; the tokens are picked afterwards. Codes are sparse: most features are silent.
    """
    raw = np.zeros((len(items), bench.subject.info.d_model))
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in saes}
    for part, codes in bench.encoded(items.rows, saes, what):
        local = torch.full((len(items.rows),), -1).index_copy(0, part.index, torch.arange(len(part.index)))
        item = (local[items.row] >= 0).nonzero().squeeze(1)
        row, pos = local[items.row[item]], items.pos[item]
        acts = part.batch.acts
        raw[item.numpy()] = acts[row.to(acts.device), pos.to(acts.device)].double().cpu().numpy()
        for name, code in codes.items():
            parts[name].append((item, *_entries(code, row, pos)))
    return {RAW: raw} | {name: _matrix(found, len(items), saes[name].d_sae) for name, found in parts.items()}


def _entries(codes: Codes, row: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
    """Features and values at some tokens, `[items, slots]` each, on the CPU."""
    device = codes.values.device
    values = codes.values[row.to(device), pos.to(device)].double().cpu()
    if isinstance(codes, SparseCodes):
        return codes.indices[row.to(device), pos.to(device)].cpu(), values
    return torch.arange(codes.d_sae).expand_as(values), values


def _matrix(parts: list[tuple[Tensor, Tensor, Tensor]], n: int, width: int) -> csr_array:
    rows, columns, values = [], [], []
    for item, indices, stored in parts:
        fired = stored != 0
        rows.append(item.unsqueeze(1).expand_as(fired)[fired])
        columns.append(indices[fired])
        values.append(stored[fired])
    places = (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    return csr_array((torch.cat(values).numpy(), places), shape=(n, width))


def _position(train: TokenItems, test: TokenItems) -> tuple[Features, Features]:
    """Where the token stands in the context: one column a sixteenth of the training tokens, and the place itself."""
    borders = torch.quantile(train.pos.double(), torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1])
    scale = train.pos.double().mean().clamp(min=1)

    def columns(items: TokenItems) -> np.ndarray:
        bins = torch.bucketize(items.pos.double(), borders)
        one_hot = torch.nn.functional.one_hot(bins, BINS).double()
        return torch.cat([one_hot, (items.pos / scale).unsqueeze(1)], 1).numpy()

    return columns(train), columns(test)


def _identity(items: TokenItems, vocabulary: int) -> csr_array:
    """Which token it is."""
    n = len(items)
    return csr_array((np.ones(n), (np.arange(n), items.tokens.numpy())), shape=(n, vocabulary))


def _bag(items: TokenItems, vocabulary: int, *, so_far: bool) -> csr_array:
    """Which token it is, beside how often each token occurs in the context (or up to and including this one)."""
    real = items.rows.real[items.row]
    if so_far:
        real = real & (torch.arange(real.shape[1]) <= items.pos.unsqueeze(1))
    item, place = real.nonzero(as_tuple=True)
    tokens = items.rows.tokens[items.row[item], place]
    counts = csr_array((np.ones(len(item)), (item.numpy(), tokens.numpy())), shape=(len(items), vocabulary))
    return csr_array(hstack([_identity(items, vocabulary), counts]))


def _stored(x: Features) -> np.ndarray:
    """All values that aren't left out as 0."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.data)
