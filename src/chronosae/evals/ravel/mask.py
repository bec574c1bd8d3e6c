"""Choosing features: a learned mask that makes one attribute follow the source while the others stay (RAVEL's MDBM)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from chronosae.evals.ravel.interchange import Interchange
from chronosae.evals.ravel.options import RavelOptions
from chronosae.evals.ravel.pairs import Pair
from chronosae.evals.ravel.prompts import Prompts, log_likelihood
from chronosae.evals.workbench import Workbench

PAIRS = 32
"""Pairs whose codes are held at once."""


def learn_mask(
    bench: Workbench,
    prompts: Prompts,
    interchange: Interchange,
    cause: Sequence[Pair],
    keep: Sequence[Pair],
    options: RavelOptions,
    generator: torch.Generator,
) -> Bool[Tensor, " width"]:
    """Features whose exchange makes answers of `cause` pairs the source's and leaves those of `keep` pairs the base's.

    Minimises the negative log-likelihood of these answers over m, features being exchanged by sigmoid(m / T), while T
    falls to `end_temperature`; a feature is chosen when m > 0 (multi-task binary masking, Huang et al. 2024, arXiv
    2402.17700). A feature that no pair exchanges stays at m = 0.
    """
    m = torch.zeros(interchange.width, requires_grad=True)
    adam = torch.optim.Adam([m], lr=options.lr)
    half = options.batch // 2
    for step in range(options.steps):
        temperature = options.end_temperature ** (step / max(1, options.steps - 1))
        changed = _draw(cause, half, generator)
        kept = _draw(keep, half, generator)
        answers = [pair.options[1] for pair in changed] + [pair.options[0] for pair in kept]
        base = torch.tensor([pair.base for pair in (*changed, *kept)])
        source = torch.tensor([pair.source for pair in (*changed, *kept)])
        with torch.enable_grad():
            change = interchange.change(base, source, torch.sigmoid(m / temperature))
            loss = -log_likelihood(bench, prompts, base, answers, change).mean()
        # A dead autoencoder's exchange changes nothing, and nothing is learned.
        (m.grad,) = torch.autograd.grad(loss, [m])
        adam.step()
    return m.detach() > 0


def _draw(pairs: Sequence[Pair], n: int, generator: torch.Generator) -> list[Pair]:
    return [pairs[i] for i in torch.randint(len(pairs), (n,), generator=generator).tolist()]


@torch.no_grad()
def answers_right(
    bench: Workbench,
    prompts: Prompts,
    interchange: Interchange,
    mask: Tensor,
    pairs: Sequence[Pair],
    wanted: int,
) -> Bool[Tensor, " pairs"]:
    """Whether option `wanted` (0: the base's value, 1: the source's) is likelier than all others after the exchange."""
    found = []
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        base, source = (torch.tensor([getattr(pair, end) for pair in some]) for end in ("base", "source"))
        asked = torch.tensor([i for i, pair in enumerate(some) for _ in pair.options])
        change = interchange.change(base, source, mask.float()).at(asked)
        answers = [option for pair in some for option in pair.options]
        scores = log_likelihood(bench, prompts, base[asked], answers, change)
        found += scores.split([len(pair.options) for pair in some])
    # A tie, as where the activation was wiped out, is no answer.
    return torch.tensor([bool((part > part[wanted]).sum() + (part == part[wanted]).sum() == 1) for part in found])
