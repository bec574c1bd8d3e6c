"""Random numbers of a step come from (seed, step, sequence), so neighbours and the order of calls change nothing."""

import pytest
import torch
from autoencoder_cases import D_IN, D_SAE, inputs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chronosae.autoencoders import Autoencoder, Draws
from chronosae.autoencoders.parts.inputs import CORRUPTIONS
from chronosae.objectives import reconstruction_error
from chronosae.presets import build

each_corruption = pytest.mark.parametrize("kind", CORRUPTIONS.kinds)


def corrupted(kind: str, x: Tensor, draws: Draws, **options: float) -> Tensor:
    return CORRUPTIONS.read({"kind": kind, **options}).apply(x, draws)


@each_corruption
@given(seed=st.integers(0, 99), step=st.integers(0, 99), split=st.integers(1, 4))
def test_a_sequence_is_damaged_alike_whatever_its_neighbours(kind: str, seed: int, step: int, split: int) -> None:
    x = inputs(5, 7, seed).acts
    together = corrupted(kind, x, Draws(seed, step))
    assert not torch.equal(together, x)
    second = corrupted(kind, x[split:], Draws(seed, step, first=split))
    assert torch.equal(torch.cat([corrupted(kind, x[:split], Draws(seed, step)), second]), together)


@each_corruption
def test_other_seeds_steps_and_sequences_draw_other_numbers_and_the_global_generator_none(kind: str) -> None:
    x = torch.ones(2, 50, D_IN)
    torch.manual_seed(0)
    results = [corrupted(kind, x, draws) for draws in (Draws(0, 0), Draws(0, 1), Draws(1, 0), Draws(0, 0, first=9))]
    rows = torch.cat(results).flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == 8
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)


def test_corruptions_have_the_level_they_say() -> None:
    x, draws = torch.ones(20, 500, 4), Draws(1, 2)
    noise = corrupted("gaussian", x, draws, level=0.5) - x
    assert noise.std() == pytest.approx(0.5, rel=0.02) and abs(float(noise.mean())) < 0.01
    dropped = corrupted("dropout", x, draws, level=0.2)
    assert (dropped == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    masked = corrupted("token_mask", x, draws, level=0.3)
    assert (masked == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert set(masked.unique().tolist()) == {0, 1} and torch.equal(masked.amin(-1), masked.amax(-1))


@each_corruption
def test_the_target_of_a_damaged_input_is_clean_and_encoding_is_undamaged(kind: str) -> None:
    plain, noisy = (build("topk", d_in=D_IN, d_sae=D_SAE, k=4, corruption=c).double() for c in (None, {"kind": kind}))
    data = inputs(2, 9, 0)
    clean, damaged = (sae.training_pass(data.acts, data.mask) for sae in (plain, noisy))
    assert torch.equal(damaged.target, clean.target) and not torch.equal(damaged.pre, clean.pre)
    assert torch.equal(data.encode(noisy), data.encode(plain))


def dropout(activation: str, rate: float = 0.3) -> Autoencoder:
    options = {"k": 4} if activation == "topk" else {}
    part = {"kind": activation, **options}
    return build("chrono", d_in=D_IN, d_sae=D_SAE, activation=part, feature_dropout=rate).double()


@pytest.mark.parametrize("activation", ["topk", "relu", "jump_relu"])
def test_features_are_dropped_alike_whatever_the_neighbours_and_however_codes_are_stored(activation: str) -> None:
    sae, data, draws = dropout(activation), inputs(4, 9, 0), Draws(3, 4)
    together = sae.training_pass(data.acts, data.mask, draws=draws).recon
    alone = [
        sae.training_pass(data.acts[i : i + 1], data.mask[i : i + 1], draws=Draws(3, 4, first=i)).recon
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-12, rtol=1e-12)


def test_feature_dropout_drops_its_share_makes_up_for_it_and_leaves_the_codes_alone() -> None:
    keep, drop = dropout("topk", 0.0), dropout("topk", 0.3)
    data = inputs(40, 20, 0)
    whole, partial = (sae.training_pass(data.acts, data.mask) for sae in (keep, drop))
    assert torch.equal(whole.codes.dense(), partial.codes.dense())
    values, dropped = partial.codes.values, drop._drop_features(partial.codes, Draws(0, 0))
    used = values != 0
    share = (dropped.values == 0)[used].double().mean()
    assert share == pytest.approx(0.3, abs=0.03)
    kept = used & (dropped.values != 0)
    torch.testing.assert_close(dropped.values[kept], values[kept] / 0.7)
    assert data.encode(drop).equal(data.encode(keep)), "encoding drops nothing"


@given(rate=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_chances_have_their_rate_and_no_pattern(rate: float, seed: int) -> None:
    hit = Draws(seed, 1).chance("x", rate, torch.arange(20_000).expand(2, -1)).double()
    spread = (rate * (1 - rate)) ** 0.5
    assert abs(float(hit.mean()) - rate) < 5 * spread / 200
    for other in (hit.roll(1, 1), hit.roll(D_SAE, 1), hit.flip(0)):
        assert abs(float(((hit - rate) * (other - rate)).mean())) < 6 * spread**2 / 140
    assert not Draws(seed, 1).chance("x", 0.0, torch.arange(1000).unsqueeze(0)).any()


def test_the_same_step_twice_is_the_same_step() -> None:
    sae, data = dropout("topk"), inputs(2, 9, 0)
    losses = [reconstruction_error(sae.training_pass(data.acts, data.mask, draws=Draws(1, 7))) for _ in range(2)]
    assert torch.equal(*losses)
