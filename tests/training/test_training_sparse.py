"""The compiled step trains as dense arithmetic does."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.config import TrainingConfig
from chronosae.kernels import compiled_kernels, dense_only, encode, mixed
from chronosae.kernels import encode as encoder
from chronosae.presets import build
from chronosae.training import Trainee

pytestmark = pytest.mark.skipif(not compiled_kernels(torch.empty(0)), reason="no compiler here")
D_IN, D_SAE = 16, 96


def batch(step: int) -> SequenceBatch:
    """Sums of a few of 100 directions, with a masked first token."""
    g = torch.Generator().manual_seed(step)
    directions = torch.randn(100, D_IN, generator=torch.Generator().manual_seed(99))
    codes = torch.rand(8, 20, 100, generator=g) * (torch.rand(8, 20, 100, generator=g) < 0.05)
    shape, zeros = (8, 20), torch.zeros(8, 20, dtype=torch.int64)
    mask = torch.arange(20).expand(shape) > 0
    return SequenceBatch(codes @ directions, mask, zeros, mask.cumsum(1) - 1, zeros, ("planted",) * 8)


def trained(
    preset: str, steps: int, cfg: TrainingConfig | None = None, **options: object
) -> tuple[Trainee, list[float]]:
    sae = build(preset, d_in=D_IN, d_sae=D_SAE, seed=3, k=6, **options)
    cfg = cfg or TrainingConfig(clip="norm", clip_norm=5.0)
    trainee, losses = Trainee(preset, sae, "site", cfg, steps=steps, lr=3e-3, seed=0), []
    for step in range(steps):
        trainee.dead.since_fired[::8] = 10**9  # for AuxK to take part
        trainee.step(batch(step))
        losses.append(trainee.metrics().loss)
    return trainee, losses


def weights(trainee: Trainee) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainee.sae.parameters()])


PRESETS = [
    ("topk", {}),
    ("multiscale", {"placement": "input"}),
    ("chrono", {"consistency_weight": 0.01}),
    ("positional", {"context": 20}),
]


@pytest.mark.parametrize(("preset", "options"), PRESETS)
def test_after_200_steps_the_loss_is_that_of_dense_arithmetic(
    preset: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (encoder, encode, mixed):
        monkeypatch.setattr(module, "low_precision_pays", lambda: True)
    losses = trained(preset, 200, **options)[1]
    with dense_only():
        expected = trained(preset, 200, **options)[1]
    late, reference = sum(losses[-20:]), sum(expected[-20:])
    assert abs(late - reference) < 0.01 * reference and late < (0.7 if preset == "topk" else 0.8) * sum(losses[:20])
    assert losses[:5] == pytest.approx(expected[:5], rel=1e-2 if preset == "multiscale" else 1e-5)


@pytest.mark.parametrize(("preset", "options"), [*PRESETS, ("matryoshka", {}), ("consistency", {}), ("causal", {})])
def test_one_step_moves_every_weight_as_dense_arithmetic_does(
    preset: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "low_precision_pays", lambda: False)
    fast = trained(preset, 1, **options)[0]
    with dense_only():
        slow = trained(preset, 1, **options)[0]
    torch.testing.assert_close(fast._grad_norm, slow._grad_norm, rtol=1e-5, atol=0)
    # Adam's first step is lr times the gradient's sign: a gradient of rounding errors alone may differ.
    assert ((weights(fast) - weights(slow)).abs() < 1e-5).float().mean() > 0.999


LOW = TrainingConfig(clip="norm", clip_norm=5.0, optimizer_state="bfloat16")


@pytest.mark.parametrize("compiled", [True, False])
def test_moments_in_bfloat16_train_as_well_and_resume_bit_equal(compiled: bool) -> None:
    with contextlib.nullcontext() if compiled else dense_only():
        whole, losses = trained("chrono", 40, LOW)
        expected = trained("chrono", 40)[1]
        assert abs(sum(losses[-10:]) - sum(expected[-10:])) < 0.01 * sum(expected[-10:])
        part = fresh(3)
        for step in range(40):
            if step == 20:  # the weights of another seed, until the state is there
                state, part = copy.deepcopy(part.state_dict()), fresh(4)
                part.load_state_dict(state)
            part.dead.since_fired[::8] = 10**9
            part.step(batch(step))
    kept = whole.optimizer.state[whole.sae.W_dec]
    assert kept["exp_avg"].dtype == kept["exp_avg_sq"].dtype == torch.bfloat16
    assert torch.equal(weights(part), weights(whole))


def fresh(seed: int) -> Trainee:
    sae = build("chrono", d_in=D_IN, d_sae=D_SAE, seed=seed, k=6)
    return Trainee("chrono", sae, "site", LOW, steps=40, lr=3e-3, seed=0)


def test_a_gradient_that_is_not_finite_stops_the_trainee_before_it_moves() -> None:
    trainee = trained("topk", 1)[0]
    before, bad = weights(trainee), batch(1)
    bad.acts[2, 3, 4] = torch.nan
    trainee.step(bad)
    assert trainee.stopped is not None and "NaN" in trainee.stopped and torch.equal(weights(trainee), before)


def test_a_feature_lies_side_by_side_in_memory_and_a_saved_one_trains_alike(tmp_path) -> None:
    from chronosae.presets import load

    sae = build("topk", d_in=D_IN, d_sae=D_SAE, k=6)
    assert sae.W_enc.T.is_contiguous()
    sae.save(tmp_path)
    x = torch.randn(200, D_IN)
    assert torch.equal(load(tmp_path).encode(x).values, sae.encode(x).values)
