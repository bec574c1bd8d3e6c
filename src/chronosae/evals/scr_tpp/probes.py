"""Linear probes by AdamW, many at once: their weights never meet, so that each is as if it were fitted alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from chronosae.evals.scr_tpp.options import AblationOptions


@dataclass(frozen=True)
class Probes:
    """Logits `x . weight + bias`; above 0 is positive."""

    weight: Float[Tensor, "probes d_in"]
    bias: Float[Tensor, " probes"]

    def logits(self, acts: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows probes"]:
        """Of all probes at all vectors."""
        return acts @ self.weight.T + self.bias


@dataclass(frozen=True)
class Examples:
    """What the probes are fitted on: as many examples for each."""

    acts: Float[Tensor, "rows d_in"]
    rows: Int[Tensor, "probes n"]
    positive: Bool[Tensor, "probes n"]


@dataclass(frozen=True)
class Judge:
    """What tells which epoch's weights are kept."""

    acts: Float[Tensor, "judged d_in"]
    positive: Bool[Tensor, "probes judged"]
    weight: Float[Tensor, "probes judged"]
    """Adds up to one for each probe."""

    def accuracy(self, probes: Probes) -> Float[Tensor, " probes"]:
        """Weighted accuracy of each probe on its own labels: the same wherever as many are right."""
        right = (probes.logits(self.acts).T > 0) == self.positive
        # Sums of the same weights at other places differ in their last bits, and no epoch may win by those.
        return (right * self.weight).sum(1).round(decimals=9)


def fit_probes(
    examples: Examples, judge: Judge, options: AblationOptions, generators: Sequence[torch.Generator]
) -> Probes:
    """Binary cross-entropy plus L1; of all epochs the first with the best judgement is kept.

    Arguments:
        generators: one a probe: its initial weights and the order of its examples.
    """
    n_probes, n = examples.rows.shape
    start = _initial(examples.acts.shape[1], generators)
    weight, bias = (tensor.clone().requires_grad_() for tensor in (start.weight, start.bias))
    optimiser = torch.optim.AdamW([weight, bias], lr=options.probe_lr)
    best, best_accuracy = start, torch.zeros(n_probes, dtype=torch.float64)
    for _ in range(options.probe_epochs):
        order = torch.stack([torch.randperm(n, generator=generator) for generator in generators])
        rows, labels = examples.rows.gather(1, order), examples.positive.gather(1, order).float()
        for chosen, wanted in zip(
            rows.split(options.probe_batch, 1), labels.split(options.probe_batch, 1), strict=True
        ):
            with torch.enable_grad():
                logits = torch.einsum("pnd,pd->pn", examples.acts[chosen], weight) + bias.unsqueeze(1)
                loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()
                loss = loss + options.probe_l1 * weight.abs().sum()
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
        now = Probes(weight.detach().clone(), bias.detach().clone())
        accuracy = judge.accuracy(now)
        better = accuracy > best_accuracy
        best_accuracy = torch.where(better, accuracy, best_accuracy)
        best = Probes(
            torch.where(better.unsqueeze(1), now.weight, best.weight), torch.where(better, now.bias, best.bias)
        )
    return best


def _initial(d_in: int, generators: Sequence[torch.Generator]) -> Probes:
    """Uniform in +-1 / sqrt(d_in), as torch starts a linear layer."""
    drawn = torch.stack([torch.rand(d_in + 1, generator=generator) for generator in generators])
    drawn = (2 * drawn - 1) / d_in**0.5
    return Probes(drawn[:, :d_in], drawn[:, d_in])
