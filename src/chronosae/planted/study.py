"""Train an autoencoder on planted data and score it against the truth: what every claim about a mechanism rests on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Codes, Draws, Normalisation, PredictiveCodes, build_from_spec
from chronosae.autoencoders.parts.inputs import CorruptionSpec
from chronosae.config import TrainingConfig
from chronosae.objectives.reconstruction import prefix_size
from chronosae.planted.data import HELDOUT_FIRST, Planted, PlantedStream, Shuffle, generate, token_order
from chronosae.planted.scores import (
    Matching,
    lag1_autocorrelation,
    lipschitz,
    match,
    mcc,
    position_mass,
    position_weights,
    support_f1,
)
from chronosae.planted.spec import PlantedSpec
from chronosae.presets import make_spec, read_options
from chronosae.training import Trainee, Trainer


@dataclass(frozen=True)
class Recipe:
    """How an autoencoder is trained on planted data; the same for everything that is compared."""

    steps: int = 2500
    batch_sequences: int = 16
    pool_sequences: int = 2048
    lr: float = 3e-3
    shuffle: Shuffle = "none"


@dataclass(frozen=True)
class Scores:
    """One trained autoencoder against the truth, on held-out sequences."""

    fve: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2, inputs as they are."""
    fve_corrupted: float | None
    """The same with corrupted inputs and clean targets; None without a corruption."""
    l0: float
    f1: float
    """Support F1 over `features` of the truth."""
    f1_corrupted: float | None
    mcc: float
    autocorrelation: float
    """Mean lag-1 autocorrelation of the codes."""
    nmse: float
    """1 - fve."""
    smoothness: float
    """`lipschitz` of the first fifth of the features: the high-level group of T-SAE."""
    position_mass: float | None
    """Mass of the codes of position-dependent features at their planted positions; None where there are none."""
    novel_l0: float
    """L0 of what the past doesn't predict (TFA); elsewhere L0."""


def train(
    spec: PlantedSpec, preset: str, options: Mapping[str, Any], *, seed: int, recipe: Recipe = Recipe()
) -> Autoencoder:
    """`preset` with `options`, trained on sequences of `spec`; d_sae is the number of planted features.

    The seed decides data and initial weights, so presets are compared in pairs.
    """
    stream = PlantedStream(
        spec, recipe.batch_sequences, seed, shuffle=recipe.shuffle, pool_sequences=recipe.pool_sequences
    )
    sample = generate(spec, min(256, recipe.pool_sequences), seed).batch().unmasked()
    factor = float(spec.d_in**0.5 / sample.norm(dim=-1).mean())
    normalisation = Normalisation(kind="dataset", factor=factor)
    read = read_options(preset, {"d_sae": spec.n_features, **options}, where="planted study")
    sae = build_from_spec(make_spec(read, spec.d_in, normalisation), seed)
    sae.initialise_bias(sample.mean(0) * factor)
    cfg = TrainingConfig(dead_after_tokens=50_000)
    trainee = Trainee(preset, sae, stream.site, cfg, steps=recipe.steps, lr=recipe.lr, seed=seed)
    Trainer([trainee], stream, steps=recipe.steps, log_every=recipe.steps).train()
    if trainee.stopped:
        raise ArithmeticError(f"{preset}: {trainee.stopped}")
    return sae


def heldout(spec: PlantedSpec, n_sequences: int, seed: int, shuffle: Shuffle = "none") -> Planted:
    """Sequences that no training stream serves, shuffled like the training data they go with."""
    data = generate(spec, n_sequences, seed, first=HELDOUT_FIRST)
    return data if shuffle == "none" else data.rearranged(token_order(n_sequences, spec.pos, shuffle, seed, 0))


@torch.no_grad()
def score(
    sae: Autoencoder, data: Planted, features: Tensor | None = None, corruption: CorruptionSpec | None = None
) -> Scores:
    """Scores of `sae` on `data`; `features` are those of the truth whose support counts (all by default)."""
    codes = sae.encode(data.acts, data.mask, doc_ids=data.doc_ids)
    matching = match(sae.W_dec, data.dictionary)
    fve_corrupted = f1_corrupted = None
    fve, l0 = _fve(sae, codes, data), float(codes.l0()[data.mask].double().mean())
    if corruption is not None:
        noisy = _corrupted(sae, data, corruption)
        noisy_codes = sae.encode(noisy, data.mask, doc_ids=data.doc_ids)
        fve_corrupted = _fve(sae, noisy_codes, data)
        f1_corrupted = support_f1(noisy_codes, data.codes, matching, features).f1
    return Scores(
        fve=fve,
        fve_corrupted=fve_corrupted,
        l0=l0,
        f1=support_f1(codes, data.codes, matching, features).f1,
        f1_corrupted=f1_corrupted,
        mcc=mcc(matching),
        autocorrelation=lag1_autocorrelation(codes, data.mask, data.doc_ids).mean,
        nmse=1 - fve,
        smoothness=lipschitz(codes, data.acts, data.mask, prefix_size(0.2, sae.d_sae)),
        position_mass=_position_mass(sae, codes, data, matching),
        novel_l0=_novel_l0(codes, data) or l0,
    )


def _position_mass(sae: Autoencoder, codes: Codes, data: Planted, matching: Matching) -> float | None:
    banded = (~data.profile.all(1)).nonzero().squeeze(1)
    if not len(banded):
        return None
    weights = position_weights(codes, data.positions, data.profile.shape[1], data.mask)
    return position_mass(weights, matching, data.profile, banded)


def _novel_l0(codes: Codes, data: Planted) -> float | None:
    return float(codes.novel_l0()[data.mask].double().mean()) if isinstance(codes, PredictiveCodes) else None


def _corrupted(sae: Autoencoder, data: Planted, corruption: CorruptionSpec) -> Tensor:
    normalised, scale = sae.normalise(data.acts)
    damaged = corruption.apply(normalised - sae.b_dec, Draws(2**20, 0)) + sae.b_dec
    return sae.denormalise(damaged, scale)


def _fve(sae: Autoencoder, codes: Codes, data: Planted) -> float:
    target = data.acts[data.mask].double()
    recon = sae.decode(codes)[data.mask].double()
    return float(1 - (target - recon).pow(2).sum() / (target - target.mean(0)).pow(2).sum())
