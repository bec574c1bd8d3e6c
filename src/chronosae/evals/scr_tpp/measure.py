"""One data set: probes are fitted, features chosen and zeroed; the probes' logits before and after are what remains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Autoencoder
from chronosae.evals.scr_tpp.ablation import Ablation, Reading, ablations, contrasts
from chronosae.evals.scr_tpp.effects import choose
from chronosae.evals.scr_tpp.options import AblationOptions, Protocol
from chronosae.evals.scr_tpp.probes import Examples, Judge, Probes, fit_probes
from chronosae.evals.scr_tpp.tasks import Tasks
from chronosae.evals.workbench import Workbench

Attribution = Callable[
    [Float[Tensor, "tasks d_sae"], Float[Tensor, "tasks d_in"], Float[Tensor, "d_sae d_in"]],
    Float[Tensor, "tasks d_sae"],
]
"""Contrast of pooled codes, probe directions, decoder -> effects, of which the largest are chosen."""


@dataclass(frozen=True)
class Logits:
    """One autoencoder, one seed of the probes: test logits with features chosen for each task zeroed."""

    clean: Float[Tensor, "rows tasks"]
    """Of all tasks' probes, nothing zeroed."""
    ablated: Mapping[int, Float[Tensor, "tasks rows tasks"]]
    """n -> logits; the first axis says for which task the features were chosen."""
    chosen: Mapping[int, Int[Tensor, " tasks"]]
    """n -> how many features were zeroed: fewer than n where fewer have an effect."""


@dataclass(frozen=True)
class Measured:
    """All autoencoders on one data set."""

    tasks: Tasks
    """Of the test part."""
    logits: Mapping[str, tuple[Logits, ...]]
    """Autoencoder -> one a seed of the probes."""
    hashes: tuple[str, str]
    """Of the token rows of the two parts."""


def measure(
    name: str,
    bench: Workbench,
    options: AblationOptions,
    saes: Mapping[str, Autoencoder],
    train: Tasks,
    test: Tasks,
    attribute: Attribution,
) -> Measured:
    """Texts are read, and the subject run, once for all autoencoders.

    Arguments:
        name: of the evaluation: its randomness depends on it.
    """
    readings = [_reading(bench, options, tasks, part) for tasks, part in ((train, "train"), (test, "test"))]
    train_acts, contrast = contrasts(readings[0], saes, train.contrast)
    test_acts, ablation = ablations(readings[1], saes)
    seeds = []
    for seed in range(options.probe_seeds):
        generators = [bench.generator(name, train.name, task, str(seed)) for task in train.names]
        seeds.append(probes_of(train_acts, train, test_acts, test, options, generators))
    logits = {
        sae: tuple(
            ablated_logits(
                probes,
                test_acts,
                attribute(contrast[sae], probes.weight, saes[sae].W_dec.detach().float().cpu()),
                ablation[sae],
                options.ns,
                options.protocol,
            )
            for probes in seeds
        )
        for sae in saes
    }
    return Measured(test, logits, (readings[0].rows.sha256(), readings[1].rows.sha256()))


def probes_of(
    train_acts: Float[Tensor, "train d_in"],
    train: Tasks,
    test_acts: Float[Tensor, "test d_in"],
    test: Tasks,
    options: AblationOptions,
    generators: list[torch.Generator],
) -> Probes:
    """One probe a task. Its epochs are judged on held-out training texts; in SAEBench's protocol on the test texts."""
    held = train.held_out()
    if options.protocol == "saebench":
        fitted, judge = torch.ones_like(held), Judge(test_acts, test.positive, test.weight)
    else:
        fitted, positive = ~held, train.positive[:, held]
        judge = Judge(train_acts[held], positive, _halved(train.weight[:, held], positive))
    n = train.fit_size(fitted)
    drawn = [train.fit_rows(task, fitted, n, generator) for task, generator in enumerate(generators)]
    examples = Examples(train_acts, torch.stack([rows for rows, _ in drawn]), torch.stack([sign for _, sign in drawn]))
    return fit_probes(examples, judge, options, generators)


def _halved(weight: Float[Tensor, "tasks rows"], positive: Bool[Tensor, "tasks rows"]) -> Float[Tensor, "tasks rows"]:
    """Weights in the same proportions on either side, of which each adds up to a half."""
    yes, no = weight * positive, weight * ~positive
    return (yes / yes.sum(1, keepdim=True) + no / no.sum(1, keepdim=True)) / 2


def ablated_logits(
    probes: Probes,
    acts: Float[Tensor, "rows d_in"],
    effects: Float[Tensor, "tasks d_sae"],
    ablation: Ablation,
    ns: list[int],
    protocol: Protocol,
) -> Logits:
    """Logits of all probes with the features of largest effect on each one zeroed; n above d_sae is left out."""
    feasible = [n for n in ns if n <= effects.shape[1]]
    choices = [choose(effect, n, protocol) for n in feasible for effect in effects]
    clean = probes.logits(acts)
    if not feasible:
        return Logits(clean, {}, {})
    shifted = (clean + ablation.shifts(choices, probes.weight)).unflatten(0, (len(feasible), len(effects)))
    counts = torch.tensor([len(choice) for choice in choices]).view(len(feasible), len(effects))
    return Logits(clean, dict(zip(feasible, shifted, strict=True)), dict(zip(feasible, counts, strict=True)))


def _reading(bench: Workbench, options: AblationOptions, tasks: Tasks, part: str) -> Reading:
    context = min(options.context, bench.subject.max_context)
    rows = bench.read(tasks.texts, context)
    return Reading(bench, rows, options.protocol, context, f"{tasks.name} ({part})")
