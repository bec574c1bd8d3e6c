"""A linear probe on every feature, for all classes at once."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from chronosae.evals.sparse_probing.tasks import Part, Task

# SAEBench's settings.
LEARNING_RATE, BATCH, EPOCHS, PATIENCE = 1e-2, 250, 100, 10

ChosenOn = Literal["validation", "test"]


def full_width_correct(
    train: Float[Tensor, "train_rows width"],
    test: Float[Tensor, "test_rows width"],
    tasks: Sequence[Task],
    chosen_on: ChosenOn,
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
