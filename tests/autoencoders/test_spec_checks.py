"""Parts that can't go together are refused when the autoencoder is made, in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

import chronosae
from chronosae import UserError
from chronosae.activations import SequenceBatch
from chronosae.autoencoders import save_trackers
from chronosae.config import TrainingConfig
from chronosae.presets import PRESETS, load_trackers
from chronosae.training import Trainee


def batch(d_in: int = 16) -> SequenceBatch:
    shape = (4, 12)
    zeros = torch.zeros(shape, dtype=torch.int64)
    acts = torch.randn(*shape, d_in, generator=torch.Generator().manual_seed(0))
    return SequenceBatch(acts, torch.ones(shape, dtype=torch.bool), zeros, zeros + torch.arange(12), zeros, ("x",) * 4)


def trainee(preset: str, **options: Any) -> Trainee:
    sae = chronosae.build(preset, d_in=16, d_sae=32, k=4, **options)
    return Trainee(preset, sae, "site", TrainingConfig(dead_after_tokens=10), steps=10, lr=1e-2, seed=0)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"kind": "correlation"}, "needs the causal_prediction term"),
        ({"kind": "novel_l1"}, "the preset tfa"),
        ({"kind": "window"}, "the presets txc and stacked"),
        ({"kind": "l0"}, "jump_relu"),
        ({"kind": "l1", "decoder_weighted": True}, "a code for every feature"),
    ],
)
def test_a_term_that_does_not_fit_is_refused_by_build(term: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chronosae.build("topk", d_in=16, d_sae=32, k=4, extra_terms=[term])


def test_a_dense_predictor_of_many_features_is_refused_by_build() -> None:
    with pytest.raises(UserError, match="4096"):
        chronosae.build("topk", d_in=4, d_sae=5000, k=4, extra_terms=[{"kind": "causal_prediction", "dense": True}])


def test_a_tracker_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="tracker 'firing' is given twice"):
        chronosae.build("topk", d_in=16, d_sae=32, k=4, trackers=[{"kind": "firing"}, {"kind": "firing"}])


def test_a_users_correlation_tracker_takes_the_place_of_the_presets() -> None:
    sae = chronosae.build("causal", d_in=16, d_sae=32, k=4, trackers=[{"kind": "correlation", "window": 2}])
    assert [tracker.model_dump()["window"] for tracker in sae.cfg.trackers] == [2]


def test_trackers_survive_the_disk(tmp_path: Path) -> None:
    trained = trainee("causal", trackers=[{"kind": "importance"}])
    for _ in range(4):
        trained.step(batch())
    trained.sae.save(tmp_path)
    save_trackers(trained.trackers, tmp_path)
    read = load_trackers(tmp_path)
    assert set(read) == {"correlation", "importance"}
    for kind, tracker in trained.trackers.items():
        for name, tensor in tracker.state_dict().items():
            assert torch.equal(read[kind].state_dict()[name], tensor), (kind, name)


def test_what_a_predictor_learns_beside_the_codes_does_not_slow_them_down() -> None:
    alone, beside = trainee("topk", aux_weight=0.0), trainee("causal", aux_weight=0.0, prediction_weight=50.0)
    for _ in range(5):
        alone.step(batch())
        beside.step(batch())
    torch.testing.assert_close(alone.sae.W_dec, beside.sae.W_dec)


def test_with_masked_gradients_no_term_teaches_the_decoder_where_features_are_closed() -> None:
    trained = trainee(
        "positional",
        position_mask={"kind": "soft", "context": 12, "initial": [0.1, 0.2], "masked_gradients": True},
        extra_terms=[{"kind": "nested", "prefixes": [0.5]}],
    )
    before = trained.sae.W_dec.detach().clone()
    trained.dead.since_fired.fill_(10**6)
    trained.step(batch())
    # Rows are brought back to norm 1 after the step, which may round.
    torch.testing.assert_close(trained.sae.W_dec, before, rtol=0, atol=1e-6)


def test_a_mixer_computed_twice_gives_the_same_gradients() -> None:
    kept = trainee("multiscale", mixer={"kind": "conv"}, kernel=None, placement="input")
    again = trainee("multiscale", mixer={"kind": "conv", "checkpoint": True}, kernel=None, placement="input")
    for _ in range(3):
        kept.step(batch())
        again.step(batch())
    for (name, left), right in zip(kept.sae.named_parameters(), again.sae.parameters(), strict=True):
        torch.testing.assert_close(left, right, msg=name)


@pytest.mark.parametrize(("preset", "slots"), [("topk", 4), ("batch_topk", None), ("relu_l1", None), ("tfa", None)])
def test_a_spec_says_how_many_features_are_active_where_topk_alone_decides(preset: str, slots: int | None) -> None:
    options: dict[str, Any] = {"k": 4} if "k" in PRESETS[preset].model_fields else {}
    assert chronosae.build(preset, d_in=16, d_sae=256, **options).cfg.slots == slots
