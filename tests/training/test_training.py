"""Equivalences: many = each alone, resumed = uninterrupted; and what stops one autoencoder leaves the others alone."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Normalisation
from chronosae.config import LoggingConfig, TrainingConfig, UserError
from chronosae.objectives import L1Term
from chronosae.presets import build
from chronosae.training import LogEvent, Trainee, Trainer, load_checkpoint, lr_multiplier, save_checkpoint
from chronosae.training.log import MetricsLog, open_sinks, require_extras
from chronosae.training.trainee import PenaltyWeight

SITE, D_IN = "blocks.0.hook_resid_post", 16


class Planted:
    """Sparse combinations of 48 directions; batch n is a function of n."""

    def __init__(self, poison_at: int | None = None) -> None:
        self.n, self.poison_at = 0, poison_at
        g = torch.Generator().manual_seed(0)
        self.directions = torch.nn.functional.normalize(torch.randn(48, D_IN, generator=g), dim=1)

    def next(self) -> dict[str, SequenceBatch]:
        g = torch.Generator().manual_seed(self.n)
        z = (torch.rand(4, 32, 48, generator=g) < 0.06) * torch.rand(4, 32, 48, generator=g)
        acts = z @ self.directions * 4
        if self.n == self.poison_at:
            acts[0, 3, 2] = float("nan")
        self.n += 1
        mask = torch.ones(4, 32, dtype=torch.bool)
        mask[:, 0] = False
        zeros = torch.zeros(4, 32, dtype=torch.int64)
        batch = SequenceBatch(acts, mask, zeros, mask.cumsum(1) - 1, zeros, ("planted",) * 4)
        return {SITE: batch}

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]


STEPS = 30
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {"k": 4}),
    "relu_l1": ("relu_l1", {"target_l0": 4.0}),
    "weighted": ("relu_l1", {"form": "decoder_weighted", "l1_weight": 2.0, "resample_every": 7}),
}


def trainee(name: str, steps: int = STEPS, seed: int = 0, lr: float = 3e-3, **cfg: Any) -> Trainee:
    preset, options = MEMBERS[name]
    sae = build(
        preset, d_in=D_IN, d_sae=64, seed=seed, normalisation=Normalisation(kind="dataset", factor=2.0), **options
    )
    training = TrainingConfig(**{"dead_after_tokens": 500, **cfg})
    return Trainee(name, sae, SITE, training, steps=steps, lr=lr, seed=seed)


def weights(member: Trainee) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in member.sae.parameters()])


def train(members: list[Trainee], steps: int = STEPS, **options: Any) -> Trainer:
    trainer = Trainer(members, options.pop("stream", Planted()), steps=steps, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize("clip", ["norm", "parameter", "none"])
def test_many_on_one_stream_are_bit_equal_to_each_alone(clip: str) -> None:
    together = [trainee(name, clip=clip) for name in MEMBERS]
    train(together)
    for member in together:
        alone = trainee(member.name, clip=clip)
        train([alone])
        assert torch.equal(weights(alone), weights(member))


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one_metrics_included(tmp_path: Path) -> None:
    events: list[LogEvent] = []
    whole = [trainee(name) for name in MEMBERS]
    train(whole, log_every=4, on_log=events.append)

    first = [trainee(name) for name in MEMBERS]
    stopped = Trainer(first, Planted(), steps=STEPS, log_every=4)
    stopped.should_stop = lambda: stopped.step_number == 13
    stopped.train()
    assert not stopped.finished
    save_checkpoint(tmp_path / "latest.pt", stopped.state_dict())

    second = [trainee(name) for name in MEMBERS]
    resumed: list[LogEvent] = []
    trainer = Trainer(second, Planted(), steps=STEPS, log_every=4, on_log=resumed.append)
    trainer.load_state_dict(load_checkpoint(tmp_path / "latest.pt"))
    trainer.train()
    for a, b in zip(whole, second, strict=True):
        assert torch.equal(weights(a), weights(b))
    assert [e.metrics for e in resumed] == [e.metrics for e in events if e.step > 13]
    assert [e.tokens for e in resumed] == [e.tokens for e in events if e.step > 13]


def test_training_reconstructs_better_than_at_the_start_and_holds_the_decoder_norms() -> None:
    members = [trainee(name, steps=150) for name in MEMBERS]
    losses: dict[str, list[float]] = {name: [] for name in MEMBERS}

    def on_log(event: LogEvent) -> None:
        for name, metrics in event.metrics.items():
            losses[name].append(metrics.loss)

    train(members, steps=150, log_every=10, on_log=on_log)
    for name, values in losses.items():
        assert values[-1] < 0.5 * values[0], name
    for member in members[:2]:
        torch.testing.assert_close(member.sae.W_dec.norm(dim=1), torch.ones(64))
    assert not torch.allclose(members[2].sae.W_dec.norm(dim=1), torch.ones(64)), "a free decoder is free"


def test_the_penalty_is_steered_to_the_target_from_far_off_on_either_side() -> None:
    for start in (0.05, 50.0):
        sae = build("relu_l1", d_in=D_IN, d_sae=64, target_l0=3.0, l1_weight=start)
        member = Trainee("x", sae, SITE, TrainingConfig(), steps=600, lr=3e-3, seed=0)
        last: list[LogEvent] = []
        train([member], steps=600, log_every=50, on_log=last.append)
        assert abs(last[-1].metrics["x"].l0 / 3.0 - 1) < 0.05


def test_a_target_out_of_reach_keeps_the_weight_finite() -> None:
    penalty = PenaltyWeight(L1Term(weight=2.0, target_l0=1.0), steps=10**6)
    for step in range(100_000, 150_000):
        penalty.observe(step, 1e6)
    assert 2.0 < penalty.at(150_000) <= 2.1e6


def test_an_unsteered_penalty_only_warms_up() -> None:
    penalty = PenaltyWeight(L1Term(weight=2.0, warmup_fraction=0.1), steps=100)
    penalty.observe(50, 1000.0)
    assert [penalty.at(s) for s in (0, 4, 10, 99)] == pytest.approx([2 / 11, 10 / 11, 2, 2])


def test_nan_stops_that_autoencoder_with_step_and_batch_before_its_weights_change_and_the_others_go_on() -> None:
    wild, calm = trainee("relu_l1", lr=3e-3), trainee("topk")
    with torch.no_grad():
        wild.sae.W_enc[0, 0] = float("inf")
    train([wild, calm])
    assert wild.stopped is not None and "step 0, batch 0" in wild.stopped
    assert wild.step_number == 0
    assert calm.stopped is None and calm.step_number == STEPS
    alone = trainee("topk")
    train([alone])
    assert torch.equal(weights(alone), weights(calm))


def test_nan_in_the_activations_is_told_apart_and_leaves_finite_weights() -> None:
    member = trainee("topk")
    trainer = train([member], stream=Planted(poison_at=5))
    assert member.stopped is not None and "step 5, batch 5: the activations hold NaN" in member.stopped
    assert torch.isfinite(weights(member)).all()
    assert trainer.finished and trainer.step_number == 6, "no trainee is left to train"


def test_dead_features_are_counted_in_tokens_and_revived_by_resampling() -> None:
    def run(every: int) -> tuple[int, Trainee]:
        sae = build("relu_l1", d_in=D_IN, d_sae=64, l1_weight=0.5, resample_every=every)
        with torch.no_grad():
            sae.b_enc[:20] = -100.0
        member = Trainee("x", sae, SITE, TrainingConfig(dead_after_tokens=1000), steps=60, lr=1e-3, seed=0)
        train([member], steps=60)
        return int(member.dead.dead().sum()), member

    dead, _ = run(0)
    assert dead >= 20
    revived, member = run(20)
    assert revived < 5
    assert torch.isfinite(weights(member)).all()


def test_dead_counting_ignores_masked_tokens() -> None:
    member = trainee("topk")
    with torch.no_grad():
        member.sae.b_enc[9] = -1000.0
    train([member], steps=10)
    assert member.dead.since_fired[9] == 10 * 4 * 31


def test_autocast_trains_close_to_float32() -> None:
    exact, mixed = trainee("topk"), trainee("topk", autocast=True)
    train([exact]), train([mixed])
    difference = (weights(exact) - weights(mixed)).norm() / weights(exact).norm()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_the_rate_rises_stays_and_falls_and_is_never_zero(steps: int) -> None:
    rates = [lr_multiplier(s, steps, warmup_steps=100, decay_fraction=0.2) for s in range(steps)]
    assert min(rates) > 0 and max(rates) == 1.0
    peak = rates.index(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if steps == 1000:
        assert rates.count(1.0) == pytest.approx(700, abs=3)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, {"step_number": 3, "x": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:500] if damage is None else damage)
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_that_is_a_pickle_of_code_is_refused(tmp_path: Path) -> None:
    torch.save({"x": Path}, tmp_path / "latest.pt")
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "latest.pt")


def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, {"step_number": 1})
    real: Callable[..., None] = torch.save

    def half(state: Any, handle: Any) -> None:
        handle.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step_number": 2})
    monkeypatch.setattr(torch, "save", real)
    assert load_checkpoint(path) == {"step_number": 1}


def test_metrics_lines_after_the_checkpoint_are_written_again_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"sae": "a", "step": 10}\n{"sae": "a", "step": 20}\n{"sae": "a", "st')
    MetricsLog(path, [], keep_steps=10).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10]


def test_every_logged_number_is_valid_json_even_when_undefined(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", [])
    member = trainee("topk")

    def on_log(event: LogEvent) -> None:
        broken = {name: m.__class__(**{**vars(m), "loss": math.nan}) for name, m in event.metrics.items()}
        log(LogEvent(event.step, event.tokens, event.tokens_per_s, broken))

    train([member], log_every=10, on_log=on_log)
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert [row["tokens"] for row in rows] == [1280, 2560, 3840]
    assert all(row["loss"] is None and row["l0"] <= 4 and row["grad_norm"] > 0 for row in rows)


def test_tensorboard_receives_what_metrics_jsonl_holds(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cfg = LoggingConfig(extras=["tensorboard"])
    require_extras(cfg)
    log = MetricsLog(tmp_path / "metrics.jsonl", open_sinks(cfg, tmp_path, "x"))
    train([trainee("topk")], log_every=10, on_log=log)
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [e.step for e in events.Scalars("topk/loss")] == [10, 20, 30]
    assert [e.value for e in events.Scalars("topk/loss")] == pytest.approx([row["loss"] for row in rows])


def test_a_missing_service_names_the_extra_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install 'chronosae\[trackio\]'"):
        require_extras(LoggingConfig(extras=["trackio"]))
