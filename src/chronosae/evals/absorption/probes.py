"""Linear probes for all letters at once: one-vs-rest logistic regressions, trained side by side."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from chronosae.autoencoders import SparseCodes

Inputs = Float[Tensor, "words width"] | SparseCodes

# SAEBench's: Adam from the first rate to the last, falling by the same factor every epoch.
LEARNING_RATE, LAST_RATE = 0.01, 1e-5


class LetterProbe(NamedTuple):
    """Logits of a letter are `inputs @ weight[:, letter] + bias[letter]`; above 0 is yes."""

    weight: Float[Tensor, "width letters"]
    bias: Float[Tensor, " letters"]

    def logits(self, inputs: Inputs) -> Float[Tensor, "words letters"]:
        """One logit a word and letter."""
        return _times(inputs, self.weight) + self.bias


class Training(NamedTuple):
    """How a probe is trained."""

    epochs: int
    batch: int
    l1: float = 0.0
    """Weight of the sum over inputs of |weight|, averaged over letters."""
    l2: float = 0.0
    """Adam's weight decay."""
    steps: int = 0
    """At least so many steps; more epochs where it takes them."""
    random_start: bool = False
    """Weights and biases start uniform in +- 1 / sqrt(width), as PyTorch's linear layers; else at zero."""


def fit_probe(
    inputs: Inputs, letters: Int[Tensor, " words"], n_letters: int, how: Training, generator: torch.Generator
) -> LetterProbe:
    """Binary cross-entropy with each letter's yes weighted by (number of no) / (number of yes)."""
    words, width = len(letters), inputs.d_sae if isinstance(inputs, SparseCodes) else inputs.shape[1]
    target = one_hot(letters, n_letters).float()
    yes = target.sum(0)
    start = torch.zeros(width + 1, n_letters)
    if how.random_start:
        start.uniform_(-(width**-0.5), width**-0.5, generator=generator)
    weight, bias = start[:-1].clone().requires_grad_(), start[-1].clone().requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=LEARNING_RATE, weight_decay=how.l2)
    a_pass = math.ceil(words / how.batch)
    epochs = max(how.epochs, math.ceil(how.steps / a_pass))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (LAST_RATE / LEARNING_RATE) ** (1 / epochs))
    with torch.enable_grad():
        for _ in range(epochs):
            # One batch holds all words in any order.
            order = torch.randperm(words, generator=generator) if a_pass > 1 else torch.arange(words)
            for chosen in order.split(how.batch):
                optimizer.zero_grad()
                logits = _times(_some(inputs, chosen), weight) + bias
                loss = binary_cross_entropy_with_logits(logits, target[chosen], pos_weight=(words - yes) / yes)
                (loss + how.l1 * weight.abs().sum(0).mean()).backward()
                optimizer.step()
            schedule.step()
    return LetterProbe(weight.detach(), bias.detach())


def _times(inputs: Inputs, weight: Float[Tensor, "width letters"]) -> Float[Tensor, "words letters"]:
    return inputs.combine(weight) if isinstance(inputs, SparseCodes) else inputs @ weight


def _some(inputs: Inputs, which: Tensor) -> Inputs:
    if isinstance(inputs, SparseCodes):
        scale = None if inputs.scale is None else inputs.scale[which]
        return SparseCodes(inputs.values[which], scale, inputs.indices[which], inputs.n_features)
    return inputs[which]


def f1(said: Bool[Tensor, "words *which"], true: Bool[Tensor, "words *which"]) -> Float[Tensor, "*which"]:
    """2 tp / (2 tp + fp + fn) over words; 0 where nothing is true or said."""
    hits = (said & true).sum(0).double()
    return 2 * hits / (said.sum(0) + true.sum(0)).clamp(min=1)
