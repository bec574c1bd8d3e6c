"""What probes make of each data set: right or wrong, for every reader, number of features, task and test row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import sklearn
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from chronosae.autoencoders import Autoencoder
from chronosae.evals.data import LABELLED
from chronosae.evals.probes import RAW, converged, fit_logistic, roc_auc
from chronosae.evals.sparse_probing.data import (
    NAME,
    Part,
    ProbingSet,
    SparseProbingOptions,
    Task,
    read_set,
    text_vectors,
)
from chronosae.evals.workbench import Workbench

# Autoencoders whose vectors of one data set take more together are encoded one group after the other.
MOST_BYTES = 2 * 2**30
# SAEBench's settings of the full-width probe.
LEARNING_RATE, BATCH, EPOCHS, PATIENCE = 1e-2, 250, 100, 10
# sae-probes: strengths tried, strongest penalty last; the share of training rows, and the most, that chooses.
STRENGTHS = np.logspace(5, -5, 10)
CHOOSING_SHARE, MOST_CHOOSING = 0.2, 100

FULL = "test_accuracy"


def top(k: int, metric: str = "accuracy") -> str:
    """SAEBench's name of a metric of k-sparse probes, without `llm_` or `sae_`."""
    return f"top_{k}_test_{metric}"


@dataclass
class Scores:
    """Results of one reader (the raw activations, or an autoencoder) on one data set."""

    correct: dict[str, list[Bool[Tensor, " n"]]] = field(default_factory=dict)
    """Accuracy's name -> for each task, whether each of its test rows is told right."""
    further: dict[str, list[float]] = field(default_factory=dict)
    """Other metrics' names -> a value a task."""
    features: Int[Tensor, "tasks k"] | None = None
    """The features chosen, best first, for the largest k that was probed."""
    not_converged: int = 0
    """Fits that were stopped by their limit."""
    alive: int = 0
    """Features that aren't 0 on every training text."""


@dataclass(frozen=True)
class Measured:
    """All data sets and what every reader's probes make of them, one entry a data set."""

    sets: list[ProbingSet]
    readers: dict[str, list[Scores]]
    """The raw activations under `RAW`, each autoencoder under its name."""


def measure(options: SparseProbingOptions, bench: Workbench, saes: Mapping[str, Autoencoder]) -> Measured:
    """Probe every data set, as the raw activations and every autoencoder read it."""
    measured = Measured([], {name: [] for name in [RAW, *saes]})
    for name in dict.fromkeys(options.data):
        data = read_set(name, options, bench)
        measured.sets.append(data)
        for who, scores in _read_by_all(data, options, bench, saes).items():
            measured.readers[who].append(scores)
    return measured


def _read_by_all(
    data: ProbingSet, options: SparseProbingOptions, bench: Workbench, saes: Mapping[str, Autoencoder]
) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for group in _groups(saes, len(data.train) + len(data.test)):
        train = text_vectors(bench, data.train, group, options, f"{NAME}: {data.name}, training texts")
        test = text_vectors(bench, data.test, group, options, f"{NAME}: {data.name}, test texts")
        for who in train:
            if who not in found:
                bench.progress(f"{NAME}: {data.name}, probes", len(found), len(saes) + 1)
                found[who] = _scores(train[who], test[who], data, options, bench, is_raw=who == RAW)
    bench.progress(f"{NAME}: {data.name}, probes", len(found), len(saes) + 1)
    return found


def _groups(saes: Mapping[str, Autoencoder], rows: int) -> Iterator[dict[str, Autoencoder]]:
    group: dict[str, Autoencoder] = {}
    size = 0
    for name, sae in saes.items():
        more = rows * sae.d_sae * 4
        if group and size + more > MOST_BYTES:
            yield group
            group, size = {}, 0
        group[name], size = sae, size + more
    yield group


def _scores(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    data: ProbingSet,
    options: SparseProbingOptions,
    bench: Workbench,
    *,
    is_raw: bool,
) -> Scores:
    if not (train.isfinite().all() and test.isfinite().all()):
        return Scores()
    # The same stream for every reader: autoencoders are compared on the same batches, whoever is beside them.
    generator = bench.generator(NAME, LABELLED.label(data.name), "probes")
    scores = probe(train, test, data.tasks, options, generator, device=bench.subject.device, is_raw=is_raw)
    scores.alive = int((train != 0).any(0).sum())
    return scores


def probe(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    tasks: Sequence[Task],
    options: SparseProbingOptions,
    generator: torch.Generator,
    *,
    device: torch.device | None = None,
    is_raw: bool = False,
) -> Scores:
    """Choose features on the training rows, fit, and test: for each task and each k that is at most the width.

    Args:
        train: one vector a text.
        device: where the full-width probe is fitted; that of `train` when absent.
        is_raw: the vectors are raw activations: sae-probes has a full-width probe only of those.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    scores = sparse_scores(train, test, tasks, options, seed)
    if options.protocol != "sae_probes":
        chosen_on = "test" if options.protocol == "saebench" else "validation"
        place = device or train.device
        scores.correct[FULL] = full_width_correct(train.to(place), test.to(place), tasks, chosen_on, generator)
    elif is_raw:
        for task in tasks:
            (x, y), (asked, answers) = _columns(train, task.train), _columns(test, task.test)
            fitted = fit_searched(x, y, l1=False, seed=seed)
            _record(scores, FULL, fitted, asked, answers)
            _record_further(scores, "test_{}", fitted, asked, answers)
    return scores


def sparse_scores(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    tasks: Sequence[Task],
    options: SparseProbingOptions,
    seed: int,
) -> Scores:
    """The part of `probe` that reads k features."""
    scores = Scores()
    ks = sorted(k for k in options.ks if k <= train.shape[1])
    if not ks:
        return scores
    theirs = options.protocol == "sae_probes"
    scores.features = strongest(train, [task.train for task in tasks], ks[-1], relative=theirs)
    for task, features in zip(tasks, scores.features, strict=True):
        (x, y), (asked, answers) = _columns(train, task.train, features), _columns(test, task.test, features)
        for k in ks:
            # SAEBench's settings are those of `fit_logistic`: L2 with C = 1, at most 1,000 iterations.
            fitted = fit_searched(x[:, :k], y, l1=True, seed=seed) if theirs else fit_logistic(x[:, :k], y)
            _record(scores, top(k), fitted, asked[:, :k], answers)
            if theirs:
                _record_further(scores, top(k, "{}"), fitted, asked[:, :k], answers)
    return scores


def _record(scores: Scores, name: str, fitted: Any, asked: Any, answers: Any) -> None:
    right = torch.from_numpy(fitted.predict(asked) == answers)
    scores.correct.setdefault(name, []).append(right)
    scores.not_converged += not converged(fitted)


def _record_further(scores: Scores, name: str, fitted: Any, asked: Any, answers: Any) -> None:
    """ROC AUC, and F1 averaged over both answers: what sae-probes has beside accuracy."""
    scores.further.setdefault(name.format("auc"), []).append(roc_auc(fitted, asked, answers))
    f1 = float(f1_score(answers, fitted.predict(asked), average="weighted"))
    scores.further.setdefault(name.format("f1"), []).append(f1)


def _columns(
    vectors: Float[Tensor, "rows width"], part: Part, features: Int[Tensor, " k"] | None = None
) -> tuple[Any, Any]:
    """The part's rows, of the chosen features alone, and its labels."""
    chosen = vectors[part.rows] if features is None else vectors[part.rows.unsqueeze(1), features]
    return np.ascontiguousarray(chosen.float().cpu().numpy()), part.labels.numpy()


def mean_differences(
    x: Float[Tensor, "rows width"], parts: Sequence[Part], *, relative: bool = False
) -> Float[Tensor, "tasks width"]:
    """Mean over the class minus mean over the rest, for each task.

    Args:
        x: one vector a text.
        relative: in units of the feature's mean |activation| where it isn't 0 on the task's rows, as sae-probes does.
    """
    signs = x.new_zeros(len(parts), len(x))
    for sign, part in zip(signs, parts, strict=True):
        share = torch.where(part.labels, 1 / part.labels.sum().clamp(min=1), -1 / (~part.labels).sum().clamp(min=1))
        sign[part.rows] = share.to(x)
    found = signs @ x
    if not relative:
        return found
    inside = (signs != 0).to(x)
    typical = (inside @ x.abs()) / (inside @ (x != 0).to(x) + 1e-6)
    return found / (typical + 1e-6)


def strongest(
    x: Float[Tensor, "rows width"], parts: Sequence[Part], k: int, *, relative: bool = False
) -> Int[Tensor, "tasks k"]:
    """The `k` features of largest absolute `mean_differences`, best first; of equal ones the lower number first."""
    size = mean_differences(x, parts, relative=relative).abs()
    return size.argsort(dim=1, descending=True, stable=True)[:, :k]


def full_width_correct(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    tasks: Sequence[Task],
    chosen_on: Literal["validation", "test"],
    generator: torch.Generator,
) -> list[Bool[Tensor, " n"]]:
    """Whether each test row of each task is told right.

    AdamW on logistic loss; a task's probe is the one of its best epoch, and ten epochs without a better one end it.
    With `validation` it is fitted on `fit`, on centred input of mean variance 1 (so that the learning rate fits any
    activations), and the best epoch has the least loss on `validation`. With `test` it is SAEBench's: fitted on
    `train`, raw input, and the best epoch has the highest accuracy **on the test**, which is also what is reported.
    """
    alive = (train != 0).any(0)  # other features have no gradient
    x, asked = train[:, alive], test[:, alive]
    if chosen_on == "validation":
        mean = x.mean(0)
        scale = (x - mean).square().mean().sqrt().clamp(min=1e-12)
        x, asked = (x - mean) / scale, (asked - mean) / scale
    fitted = _Table([task.fit if chosen_on == "validation" else task.train for task in tasks], x, generator)
    choosing = _Table([getattr(task, chosen_on) for task in tasks], x if chosen_on == "validation" else asked)
    weight, bias = _train(fitted, choosing, by_accuracy=chosen_on == "test", generator=generator)
    logits = linear(asked, weight, bias).cpu()
    return [(logits[task.test.rows, t] > 0) == task.test.labels for t, task in enumerate(tasks)]


class _Table:
    """The union of the tasks' rows: `x` once, an answer and a weight (0 or 1) for every row and task.

    With a generator the rows are in random order.
    """

    def __init__(
        self, parts: Sequence[Part], x: Float[Tensor, "rows width"], generator: torch.Generator | None = None
    ) -> None:
        labels = torch.zeros(len(x), len(parts))
        weights = torch.zeros(len(x), len(parts))
        for t, part in enumerate(parts):
            labels[part.rows, t] = part.labels.float()
            weights[part.rows, t] = 1.0
        used = weights.any(1).nonzero().squeeze(1)
        if generator is not None:
            used = used[torch.randperm(len(used), generator=generator)]
        self.x, self.labels, self.weights = x[used.to(x.device)], labels[used].to(x), weights[used].to(x)

    def __len__(self) -> int:
        return len(self.x)

    def scores(self, logits: Float[Tensor, "rows tasks"], by_accuracy: bool) -> Float[Tensor, " tasks"]:
        """Accuracy, or minus the mean loss, of each task."""
        if by_accuracy:
            found = ((logits > 0) == (self.labels > 0)).to(logits)
        else:
            found = -binary_cross_entropy_with_logits(logits, self.labels, reduction="none")
        return (found * self.weights).sum(0) / self.weights.sum(0).clamp(min=1)


def _train(
    fitted: _Table, choosing: _Table, *, by_accuracy: bool, generator: torch.Generator
) -> tuple[Float[Tensor, "tasks width"], Float[Tensor, " tasks"]]:
    n_tasks = fitted.labels.shape[1]
    weight = fitted.x.new_zeros(n_tasks, fitted.x.shape[1], requires_grad=True)
    bias = fitted.x.new_zeros(n_tasks, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=LEARNING_RATE)
    # Every task sees about BATCH of its own rows a step.
    size = max(1, round(BATCH * len(fitted) / max(1.0, float(fitted.weights.sum()) / n_tasks)))
    best = weight.detach().clone(), bias.detach().clone()
    best_score = torch.full_like(bias, -torch.inf, requires_grad=False)
    stale = torch.zeros_like(best_score)
    for _ in range(EPOCHS):
        for rows in _batches(len(fitted), size, fixed=not by_accuracy, generator=generator):
            _step(fitted.x[rows], fitted.labels[rows], fitted.weights[rows], weight, bias, optimizer)
        with torch.no_grad():
            score = choosing.scores(linear(choosing.x, weight, bias), by_accuracy)
            better = (score > best_score) & (stale < PATIENCE)
            best_score = torch.where(better, score, best_score)
            best = torch.where(better.unsqueeze(1), weight, best[0]), torch.where(better, bias, best[1])
            stale = torch.where(better, 0.0, stale + 1)
        if (stale >= PATIENCE).all():
            break
    return best


def _batches(n: int, size: int, *, fixed: bool, generator: torch.Generator) -> list[slice | Tensor]:
    """Rows of each step of an epoch.

    `fixed`: always the same batches in another order, as views, for copying rows costs more than all else. Otherwise
    drawn anew, as SAEBench does, whose best test accuracy gains from the jitter.
    """
    if not fixed:
        return list(torch.randperm(n, generator=generator).split(size))
    starts = range(0, n, size)
    order = torch.randperm(len(starts), generator=generator).tolist()
    return [slice(starts[i], starts[i] + size) for i in order]


@torch.enable_grad()
def _step(
    x: Float[Tensor, "batch width"],
    labels: Float[Tensor, "batch tasks"],
    weights: Float[Tensor, "batch tasks"],
    weight: Float[Tensor, "tasks width"],
    bias: Float[Tensor, " tasks"],
    optimizer: torch.optim.Optimizer,
) -> None:
    loss = binary_cross_entropy_with_logits(linear(x, weight, bias), labels, reduction="none")
    optimizer.zero_grad(set_to_none=True)
    # A mean over each task's own rows; tasks share no parameter, so their sum is each task's own loss.
    ((loss * weights).sum(0) / weights.sum(0).clamp(min=1)).sum().backward()
    optimizer.step()


def fit_searched(x: Any, labels: Any, *, l1: bool, seed: int) -> LogisticRegression:
    """sae-probes' procedure: C by ROC AUC on the last rows (a fifth, at most 100), then a fit on all rows.

    Args:
        x: `[rows, columns]`, rows in random order.
        labels: bool, one a row.
        l1: an L1 penalty (SAGA) in place of L2 (L-BFGS).
        seed: of SAGA.
    """
    penalty: dict[str, Any] = {}
    if l1:
        # scikit-learn 1.8 moved the choice of the penalty to `l1_ratio`.
        modern = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
        penalty = {"solver": "saga", "random_state": seed, **({"l1_ratio": 1.0} if modern else {"penalty": "l1"})}
    n = len(x) - min(int(CHOOSING_SHARE * len(x)), MOST_CHOOSING)
    scores = [roc_auc(fit_logistic(x[:n], labels[:n], c, **penalty), x[n:], labels[n:]) for c in STRENGTHS]
    return fit_logistic(x, labels, STRENGTHS[int(np.argmax(scores))], **penalty)
