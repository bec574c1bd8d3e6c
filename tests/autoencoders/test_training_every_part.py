"""Every preset and every mix of parts trains: the loss falls, nothing piles up, an interruption leaves no trace."""

import copy
import functools
import weakref
from typing import Any

import pytest
import torch
from autoencoder_cases import CASES, D_IN, D_SAE, MIXES, Inputs, loss_of
from torch import Tensor

import chronosae
from chronosae.autoencoders import Autoencoder, Pass
from chronosae.autoencoders.parts.terms import TRACKERS
from chronosae.config import TrainingConfig
from chronosae.planted import FeatureGroup, PlantedSpec, PlantedStream
from chronosae.presets import PRESETS
from chronosae.training import Trainee, Trainer

SPEC = PlantedSpec(
    d_in=D_IN,
    groups=(
        FeatureGroup(kind="persistent", n=12, rate=0.08, rho=0.8, magnitude_rho=0.9),
        FeatureGroup(kind="iid", n=12, rate=0.08),
    ),
    pos=20,
    doc_length=8,
    noise=0.05,
)
STEPS = 20
# Takes its candidates from the tracker, every hundredth step.
LATER = {"heads.causal_prediction.values"}
RESUMED = ["mix_topk", "mix_batch_topk", "mix_jump_relu", "mix_winner_take_all", "causal", "lagged", "tfa", "txc"]
each_trained = pytest.mark.parametrize("name", [*PRESETS, *MIXES, "input_full", "chrono_positional", "tfa_untied"])


@functools.cache
def pool() -> PlantedStream:
    return PlantedStream(SPEC, batch_sequences=6, seed=1, pool_sequences=48)


def planted() -> PlantedStream:
    """The stream from its start; the sequences themselves are made once."""
    return copy.copy(pool())


def fresh(name: str, dtype: torch.dtype = torch.float32, trackers: bool = False) -> Autoencoder:
    preset, options = CASES[name]
    # A preset may bring a tracker of its own.
    kinds = [] if not trackers else [kind for kind in TRACKERS.kinds if (preset, kind) != ("causal", "correlation")]
    options = options | {"trackers": [{"kind": kind} for kind in kinds]}
    return chronosae.build(preset, d_in=D_IN, d_sae=D_SAE, **options).to(dtype)


def trainee(sae: Autoencoder, steps: int = STEPS, **cfg: Any) -> Trainee:
    training = TrainingConfig(dead_after_tokens=300, warmup_steps=3, **cfg)
    return Trainee("x", sae, "planted", training, steps=steps, lr=1e-2, seed=5)


def a_batch() -> Inputs:
    batch = planted().next()["planted"]
    return Inputs(batch.acts, batch.mask, batch.doc_ids)


def objective(sae: Autoencoder) -> float:
    """All terms at full weight on one batch, no feature dead; statistics of the original are left alone."""
    with torch.no_grad():
        return float(loss_of(copy.deepcopy(sae), a_batch(), dead_every=D_SAE + 1)[0])


@each_trained
def test_training_lowers_the_loss_and_moves_every_weight(name: str) -> None:
    sae = fresh(name)
    before, start = objective(sae), copy.deepcopy(dict(sae.named_parameters()))
    member = trainee(sae)
    Trainer([member], planted(), steps=STEPS).train()
    assert member.stopped is None and member.step_number == STEPS
    assert objective(sae) < 0.95 * before
    still = {key for key, parameter in sae.named_parameters() if torch.equal(parameter, start[key])}
    assert still <= LATER, "weights that nothing trains"


def tensors_of(thing: Any, depth: int = 4) -> list[Tensor]:
    """All tensors that an object holds, through attributes, lists and mappings."""
    if isinstance(thing, Tensor):
        return [thing]
    if depth == 0 or isinstance(thing, str | int | float | bool | type(None)):
        return []
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    else:
        parts = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    return [tensor for part in parts for tensor in tensors_of(part, depth - 1)]


@each_trained
def test_two_steps_in_a_row_with_every_tracker_on_leave_no_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, stream, passes = fresh(name, trackers=True), planted(), []
    whole_pass = type(sae).training_pass

    def recorded(self: Autoencoder, *args: Any, **options: Any) -> Pass:
        forward = whole_pass(self, *args, **options)
        passes.append(weakref.ref(forward.pre))
        return forward

    monkeypatch.setattr(type(sae), "training_pass", recorded)
    member = trainee(sae)
    assert set(member.trackers) == set(TRACKERS.kinds)
    for _ in range(2):
        member.step(stream.next()["planted"])
    assert member.stopped is None and len(passes) == 2
    assert [ref() for ref in passes] == [None, None], "a step's tensors outlive it, if only until cycles are collected"
    held = [*tensors_of(member.trackers, 6), *tensors_of(vars(member)), *sae.state_dict(keep_vars=True).values()]
    assert len(held) > 20 and all(tensor.grad_fn is None for tensor in held)
    parameters = {id(parameter) for parameter in sae.parameters()}
    assert not any(id(tensor) in parameters or tensor.requires_grad for tensor in tensors_of(member.trackers, 6))


def equal(one: Any, other: Any) -> bool:
    """Bit-equal, all the way down."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(
    "name", ["mix_topk", "mix_batch_topk", "mix_jump_relu", "mix_winner_take_all", "causal", "lagged", "tfa", "txc"]
)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one_with_every_part_and_tracker(name: str) -> None:
    whole = Trainer([trainee(fresh(name, trackers=True), 9)], planted(), steps=9)
    whole.train()
    first = Trainer([trainee(fresh(name, trackers=True), 9)], planted(), steps=9)
    first.should_stop = lambda: first.step_number == 5
    first.train()
    state = copy.deepcopy(first.state_dict())
    second = Trainer([trainee(fresh(name, trackers=True), 9)], planted(), steps=9)
    second.load_state_dict(state)
    second.train()
    assert equal(second.state_dict(), whole.state_dict())
    assert second.trainees[0].metrics() == whole.trainees[0].metrics()


@pytest.mark.parametrize("name", ["mix_topk", "mix_batch_topk", "chrono", "tfa", "txc"])
def test_mixed_precision_trains_close_to_float32(name: str) -> None:
    results = []
    for autocast in (False, True):
        sae = fresh(name)
        Trainer([trainee(sae, 10, autocast=autocast)], planted(), steps=10).train()
        results.append(torch.cat([parameter.detach().flatten() for parameter in sae.parameters()]))
    exact, mixed = results
    assert 0 < (exact - mixed).norm() / exact.norm() < 0.1
