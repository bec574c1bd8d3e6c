"""SCR and TPP scores from probes' logits, on the test texts or on many resamples of them at once."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chronosae.evals.scr_tpp.measure import Logits
from chronosae.evals.scr_tpp.options import Protocol
from chronosae.evals.scr_tpp.tasks import BIASED, FIRST, SECOND, Tasks

# Of the accuracy that a spurious correlation costs: below it there is nothing to give back.
SMALLEST_GAP = 0.001

Counts = Float[Tensor, "resamples rows"]
"""How often each text is drawn."""


class Scr(NamedTuple):
    """Share of the accuracy lost to the spurious label that zeroing its features gives back; NaN is undefined."""

    dir1: Float[Tensor, " resamples"]
    """The first label is asked for, features of the second are zeroed."""
    dir2: Float[Tensor, " resamples"]
    """The other way round."""
    metric: Float[Tensor, " resamples"]
    """Of the direction in which the biased probe was worse on all texts."""


class Tpp(NamedTuple):
    """Accuracy that zeroing the features of each class costs its own probe, and the other probes in the mean."""

    intended: Float[Tensor, "resamples tasks"]
    unintended: Float[Tensor, "resamples tasks"]


def accuracy(
    logits: Float[Tensor, "*several rows"],
    positive: Bool[Tensor, "*several rows"],
    weight: Float[Tensor, "*several rows"],
    counts: Counts,
) -> Float[Tensor, "resamples *several"]:
    """Weighted share of right decisions (logit above 0), float64, on each resample."""
    right = ((logits > 0) == positive) * weight
    total, mass = (torch.einsum("cr,...r->c...", counts, part.double()) for part in (right, weight))
    return total / mass


def scr_scores(tasks: Tasks, logits: Logits, n: int, counts: Counts, protocol: Protocol) -> Scr:
    """Scores with n features zeroed (Marks et al. 2024, arXiv 2403.19647; SAEBench, arXiv 2503.09532).

    (accuracy of the biased probe with the features zeroed - without) / (accuracy of an unbiased probe - without), on
    texts in which both labels are crossed.
    """
    ablated = logits.ablated[n]
    dir1 = _given_back(tasks, logits, ablated[SECOND], FIRST, counts, protocol)
    dir2 = _given_back(tasks, logits, ablated[FIRST], SECOND, counts, protocol)
    everything = torch.ones(1, counts.shape[1], dtype=torch.float64)
    # Rounded: as many texts right at other places is a tie, though sums of their weights differ in their last bits.
    first, second = (round(float(biased_accuracy(tasks, logits, asked, everything)), 9) for asked in (FIRST, SECOND))
    tie = torch.full_like(dir1, torch.nan) if protocol == "saebench" else (dir1 + dir2) / 2
    return Scr(dir1, dir2, dir1 if first < second else dir2 if second < first else tie)


def biased_accuracy(tasks: Tasks, logits: Logits, asked: int, counts: Counts) -> Float[Tensor, " resamples"]:
    """Of the biased probe, nothing zeroed, where the label `asked` is right."""
    return accuracy(logits.clean[:, BIASED], tasks.positive[asked], tasks.weight[asked], counts)


def _given_back(
    tasks: Tasks,
    logits: Logits,
    ablated: Float[Tensor, "rows tasks"],
    asked: int,
    counts: Counts,
    protocol: Protocol,
) -> Float[Tensor, " resamples"]:
    positive, weight = tasks.positive[asked], tasks.weight[asked]
    biased = biased_accuracy(tasks, logits, asked, counts)
    gap = accuracy(logits.clean[:, asked], positive, weight, counts) - biased
    gain = accuracy(ablated[:, BIASED], positive, weight, counts) - biased
    undefined = 0.0 if protocol == "saebench" else torch.nan
    return torch.where(gap < SMALLEST_GAP, undefined, gain / gap)


def tpp_scores(tasks: Tasks, logits: Logits, n: int, counts: Counts) -> Tpp:
    """Scores with n features of each class zeroed (SAEBench, arXiv 2503.09532)."""
    ablated = logits.ablated[n].mT
    positive, weight = tasks.positive.expand_as(ablated), tasks.weight.expand_as(ablated)
    clean = accuracy(logits.clean.T, tasks.positive, tasks.weight, counts)
    lost = clean.unsqueeze(1) - accuracy(ablated, positive, weight, counts)
    intended = lost.diagonal(dim1=1, dim2=2)
    return Tpp(intended, (lost.sum(2) - intended) / (len(tasks) - 1))


def known(tasks: Tasks, logits: tuple[Logits, ...]) -> Bool[Tensor, " tasks"]:
    """Tasks whose own probes, nothing zeroed, are above chance (one-sided p < 0.01, normal approximation)."""
    counts = torch.ones(1, len(tasks.texts), dtype=torch.float64)
    found = [accuracy(one.clean.T, tasks.positive, tasks.weight, counts)[0] for one in logits]
    spread = tasks.weight.square().sum(1).sqrt() / 2
    return torch.stack(found).mean(0) > 0.5 + 2.326 * spread
