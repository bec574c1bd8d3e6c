"""One data set: probes are fitted, features chosen and zeroed; the probes' logits before and after are what remains.

Zeroing keeps the autoencoder's error:

    x' = decode(f with the chosen features at 0) + x - decode(f)

A decoder that adds up code_f W_dec_f (all of ours do) makes x' - x the negative sum of the chosen features' share, and
the same holds for means over tokens: pooled codes are all that is needed, and no second pass. Whether a decoder does so
is checked on the first texts; one that doesn't is asked to decode all of them, once for every choice of features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from chronosae.autoencoders import Autoencoder, Codes, SparseCodes
from chronosae.evals.scr_tpp.data import (
    AblationOptions,
    Protocol,
    Reading,
    ScrOptions,
    Tasks,
    TppOptions,
    read_texts,
)
from chronosae.evals.workbench import Workbench

# Largest difference between a decoder and the sum it should be, relative to the activations.
LINEAR_WITHIN = 1e-4

OptionsT = TypeVar("OptionsT", ScrOptions, TppOptions)

Choice = Int[Tensor, "_"]
"""Numbers of the features that are zeroed together."""

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
class Probed:
    """All autoencoders on one data set."""

    tasks: Tasks
    """Of the test part."""
    logits: Mapping[str, tuple[Logits, ...]]
    """Autoencoder -> one a seed of the probes."""
    hashes: tuple[str, str]
    """Of the token rows of the two parts."""


@dataclass(frozen=True)
class Measured:
    """All autoencoders on all data sets."""

    sets: tuple[Probed, ...]
    widths: Mapping[str, int]
    """Features of each autoencoder."""


def measure(
    options: OptionsT,
    bench: Workbench,
    saes: Mapping[str, Autoencoder],
    read: Callable[[OptionsT, Workbench, str], tuple[Tasks, Tasks]],
    attribute: Attribution,
) -> Measured:
    """Probe every data set: texts are read, and the subject run, once for all autoencoders.

    Args:
        read: the tasks over the training part and over the test part of a data set.
        attribute: which features a probe's decision is laid to.
    """
    sets = tuple(_measure(options, bench, saes, *read(options, bench, name), attribute) for name in options.data)
    return Measured(sets, {name: sae.d_sae for name, sae in saes.items()})


def _measure(
    options: ScrOptions | TppOptions,
    bench: Workbench,
    saes: Mapping[str, Autoencoder],
    train: Tasks,
    test: Tasks,
    attribute: Attribution,
) -> Probed:
    readings = [read_texts(options, bench, *part) for part in ((train, "train"), (test, "test"))]
    train_acts, contrast = contrasts(readings[0], saes, train.contrast)
    test_acts, ablation = ablations(readings[1], saes)
    seeds = []
    for seed in range(options.probe_seeds):
        generators = [bench.generator(options.name, train.name, task, str(seed)) for task in train.names]
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
    return Probed(test, logits, (readings[0].rows.sha256(), readings[1].rows.sha256()))


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

    Args:
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


def effects_either_way(
    contrast: Float[Tensor, "tasks d_sae"], weight: Float[Tensor, "tasks d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "tasks d_sae"]:
    """|(mean code of positive texts - mean code of the others)_f x (probe . W_dec_f)|, for SCR.

    Without the sign it is what zeroing the feature takes off the difference between the probe's mean logits of the two.
    """
    return (contrast * (weight @ W_dec.T)).abs()


def effects_for_class(
    contrast: Float[Tensor, "tasks d_sae"], weight: Float[Tensor, "tasks d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "tasks d_sae"]:
    """The same with its sign, for TPP, and 0 for features that don't fire more on the class than elsewhere."""
    return contrast.clamp(min=0.0) * (weight @ W_dec.T)


def choose(effects: Float[Tensor, " d_sae"], n: int, protocol: Protocol) -> Int[Tensor, " chosen"]:
    """The `n` features of largest effect, fewer where fewer have one.

    Ours takes effects above 0 only. SAEBench counts all that aren't 0: where features of negative effect raise the
    count above the number of positive ones, it goes on to features without effect. Effects that are NaN or infinite,
    those of broken codes, are never taken.
    """
    finite = effects.isfinite()
    has_effect = finite & (effects != 0 if protocol == "saebench" else effects > 0)
    return effects.where(finite, -torch.inf).topk(min(n, int(has_effect.sum()))).indices


class Ablation(ABC):
    """One autoencoder on one list of texts."""

    @abstractmethod
    def shifts(
        self, choices: Sequence[Choice], weight: Float[Tensor, "probes d_in"]
    ) -> Float[Tensor, "choices rows probes"]:
        """By how much the probes' logits change when the features of each choice are zeroed."""


class LinearAblation(Ablation):
    """Of a decoder that adds up its features' shares.

    Args:
        removable: mean codes of each text, in raw units.
        W_dec: the decoder.
    """

    def __init__(self, removable: Float[Tensor, "rows d_sae"], W_dec: Float[Tensor, "d_sae d_in"]) -> None:
        self._removable, self._W_dec = removable, W_dec

    def shifts(
        self, choices: Sequence[Choice], weight: Float[Tensor, "probes d_in"]
    ) -> Float[Tensor, "choices rows probes"]:
        alignment = self._W_dec @ weight.T
        return torch.stack([-(self._removable[:, chosen] @ alignment[chosen]) for chosen in choices])


class DecodedAblation(Ablation):
    """Of any other decoder: whole contexts are read and decoded again."""

    def __init__(self, reading: Reading, name: str, sae: Autoencoder) -> None:
        self._reading, self._name, self._sae = reading, name, sae

    def shifts(
        self, choices: Sequence[Choice], weight: Float[Tensor, "probes d_in"]
    ) -> Float[Tensor, "choices rows probes"]:
        found = torch.zeros(len(choices), len(self._reading.rows), len(weight))
        for context in self._reading.contexts({self._name: self._sae}):
            codes = context.codes[self._name]
            whole = self._sae.decode(codes)
            for shift, chosen in zip(found, choices, strict=True):
                changed = self._sae.decode(without(codes, chosen)) - whole
                shift[context.index] = context.pooled_change(changed) @ weight.T
        return found


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


def ablations(reading: Reading, saes: Mapping[str, Autoencoder]) -> tuple[Tensor, dict[str, Ablation]]:
    """Pooled activations of all texts, and what zeroing features does to them, in one pass."""
    raw = torch.zeros(len(reading.rows), reading.bench.subject.info.d_model)
    removable: dict[str, Tensor] = {}
    for number, context in enumerate(reading.contexts(saes)):
        raw[context.index] = context.raw.cpu()
        for name, sae in saes.items():
            codes = context.codes[name]
            if number == 0 and adds_up(sae, codes):
                removable[name] = torch.zeros(len(reading.rows), sae.d_sae)
            if name in removable:
                removable[name][context.index] = context.removable(in_raw_units(sae, codes)).cpu()
    return raw, {
        name: LinearAblation(removable[name], sae.W_dec.detach().float().cpu())
        if name in removable
        else DecodedAblation(reading, name, sae)
        for name, sae in saes.items()
    }


def contrasts(
    reading: Reading, saes: Mapping[str, Autoencoder], weight: Float[Tensor, "tasks rows"]
) -> tuple[Float[Tensor, "rows d_in"], dict[str, Float[Tensor, "tasks d_sae"]]]:
    """Pooled activations of all texts, and weighted sums over texts of pooled codes (raw units), in one pass."""
    raw = torch.zeros(len(reading.rows), reading.bench.subject.info.d_model)
    found = {name: torch.zeros(len(weight), sae.d_sae) for name, sae in saes.items()}
    for context in reading.contexts(saes):
        raw[context.index] = context.raw.cpu()
        for name, sae in saes.items():
            codes = context.pooled(in_raw_units(sae, context.codes[name])).cpu()
            found[name] += weight[:, context.index].to(codes.dtype) @ codes
    return raw, found


def in_raw_units(sae: Autoencoder, codes: Codes) -> Codes:
    """Codes for which `sum over f of code_f W_dec_f` is their share of the decoded activation itself."""
    if codes.scale is not None:
        return replace(codes, values=codes.values / codes.scale.unsqueeze(-1))
    return replace(codes, values=codes.values / sae.cfg.normalisation.factor)


def adds_up(sae: Autoencoder, codes: Codes) -> bool:
    """`decode` is the sum of code_f W_dec_f, plus b_dec, in the activations' own units."""
    decoded = sae.decode(codes)
    summed = sae.denormalise(codes.combine(sae.W_dec) + sae.b_dec, codes.scale)
    return bool((decoded - summed).norm() <= LINEAR_WITHIN * decoded.norm())


def without(codes: Codes, chosen: Choice) -> Codes:
    """The same codes with the chosen features at 0."""
    chosen = chosen.to(codes.values.device)
    if isinstance(codes, SparseCodes):
        return replace(codes, values=codes.values.masked_fill(torch.isin(codes.indices, chosen), 0.0))
    return replace(codes, values=codes.values.index_fill(-1, chosen, 0.0))
