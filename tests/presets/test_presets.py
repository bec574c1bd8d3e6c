"""Presets: what they take, what they refuse, and that what an earlier version wrote of them still reads."""

from typing import Any

import pytest
import torch

import chronosae
from chronosae.autoencoders import Normalisation
from chronosae.config import TrainingConfig, UserError
from chronosae.planted import PLANTED, PlantedStream
from chronosae.presets import PRESETS, read_options
from chronosae.training import Trainee

MASKED = [
    "topk",
    "batch_topk",
    "matryoshka",
    "tsae",
    "relu_l1",
    "chrono",
    "consistency",
    "causal",
    "lagged",
    "multiscale",
]
CHOOSING = [name for name in PRESETS if "activation" in PRESETS[name].model_fields]
MASK = {"kind": "soft", "context": 256}
SIZE = {"d_in": PLANTED["persistent"].d_in, "d_sae": 64}


def trained(preset: str, **options: Any) -> Trainee:
    sae = chronosae.build(preset, **SIZE, **options)
    stream = PlantedStream(PLANTED["persistent"], batch_sequences=2, seed=0, pool_sequences=8)
    trainee = Trainee("x", sae, stream.site, TrainingConfig(dead_after_tokens=100), steps=4, lr=1e-3, seed=0)
    for _ in range(4):
        trainee.step(stream.next()[stream.site])
    assert trainee.stopped is None and trainee.step_number == 4
    return trainee


@pytest.mark.parametrize("name", MASKED)
def test_a_position_mask_fits_and_learns(name: str) -> None:
    start = chronosae.build(name, **SIZE, position_mask=MASK).position_mask
    mask = trained(name, position_mask=MASK).sae.position_mask
    assert start is not None and mask is not None
    assert not torch.equal(mask.weights(), start.weights())


@pytest.mark.parametrize("name", ["tfa", "txc", "stacked", "jump_relu", "gated", "winner_take_all"])
def test_where_no_position_mask_fits_it_is_an_unknown_option(name: str) -> None:
    with pytest.raises(UserError, match="position_mask"):
        chronosae.build(name, **SIZE, position_mask=MASK)


def test_every_preset_that_chooses_k_takes_another_activation_function() -> None:
    static = {"topk", "batch_topk", "matryoshka", "tsae", "tfa", "txc", "stacked"}
    assert static < set(CHOOSING) and "relu_l1" not in CHOOSING


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka", "tsae"])
@pytest.mark.parametrize("activation", [{"kind": "batch_topk", "k": 4}, {"kind": "topk", "k": 4}, {"kind": "relu"}])
def test_another_activation_function_takes_the_place_of_k_and_auxk_follows(name: str, activation: dict) -> None:
    sae = trained(name, activation=activation).sae
    assert sae.cfg.activation.kind == activation["kind"]
    assert ("auxk" in {term.kind for term in sae.cfg.terms}) == ("k" in activation)
    with pytest.raises(UserError, match="k means nothing beside activation"):
        chronosae.build(name, **SIZE, activation=activation, k=3)


def test_auxk_asked_for_beside_an_activation_function_without_choice_is_refused() -> None:
    with pytest.raises(UserError, match="aux_weight is for activation functions that choose k features, not relu"):
        chronosae.build("topk", **SIZE, activation={"kind": "relu"}, aux_weight=0.1)


# What final_info.json of version 0.1.0 holds of the options that have grown since.
OF_OLD = {
    "topk": {"k": 8, "aux_weight": 0.03125, "k_aux": None},
    "matryoshka": {"k": 8, "aux_weight": 0.03125, "k_aux": None, "split": [0.5, 0.5], "group_weights": None},
    "txc": {"k": 8, "aux_weight": 0.0, "k_aux": 4, "window": 3, "activation": None},
    "relu_l1": {
        "form": "unit_norm",
        "l1_weight": 2.0,
        "l1_warmup_fraction": 0.1,
        "target_l0": 5.0,
        "resample_every": 0,
    },
}


@pytest.mark.parametrize("name", OF_OLD)
def test_options_that_an_earlier_version_wrote_still_read_and_mean_the_same(name: str) -> None:
    old = {
        "d_sae": 64,
        "corruption": None,
        "extra_terms": [],
        "trackers": [{"kind": "firing", "alpha": 0.1}],
        **OF_OLD[name],
    }
    options = read_options(name, old)
    dumped = options.model_dump(mode="json")
    assert {key: dumped[key] for key in old} == old and "name" not in dumped
    assert all(dumped[key] is None for key in set(dumped) - set(old))
    assert options.spec(16, Normalisation()).preset == name
