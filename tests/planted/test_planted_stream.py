"""Planted batches: resumable, each sequence once an epoch, shuffles that destroy order and nothing else."""

import pytest
import torch
from torch import Tensor

from chronosae.config import TrainingConfig
from chronosae.planted import PLANTED, FeatureGroup, PlantedSpec, PlantedStream, Shuffle, batches, generate
from chronosae.presets import build
from chronosae.training import Stream, Trainee, Trainer

SPEC = PlantedSpec(d_in=5, pos=12, groups=(FeatureGroup(kind="persistent", n=9, rate=0.3, rho=0.9),), doc_length=6.0)
each_shuffle = pytest.mark.parametrize("shuffle", ["none", "within", "all"])


def stream(shuffle: Shuffle = "none", seed: int = 0) -> PlantedStream:
    return PlantedStream(SPEC, 4, seed, shuffle, pool_sequences=8)


def epoch(source: PlantedStream) -> Tensor:
    return torch.cat([source.next()["planted"].acts for _ in range(2)])


def as_set(rows: Tensor) -> list[list[float]]:
    return sorted(rows.flatten(0, -2).tolist())


@each_shuffle
def test_a_resumed_stream_continues_with_the_same_batches(shuffle: Shuffle) -> None:
    whole, resumed = stream(shuffle), stream(shuffle)
    for _ in range(5):
        whole.next()
    resumed.load_state_dict(whole.state_dict())
    for _ in range(4):
        one, other = whole.next()["planted"], resumed.next()["planted"]
        assert torch.equal(one.acts, other.acts) and torch.equal(one.doc_ids, other.doc_ids)


@each_shuffle
def test_every_epoch_serves_every_token_once_in_a_new_order(shuffle: Shuffle) -> None:
    source, pool = stream(shuffle), generate(SPEC, 8, seed=0).acts
    first, second = epoch(source), epoch(source)
    assert as_set(first) == as_set(second) == as_set(pool)
    assert not torch.equal(first, second)


def test_without_shuffling_sequences_are_whole_and_keep_their_documents() -> None:
    pool, batch = generate(SPEC, 8, seed=0), stream().next()["planted"]
    for row in range(4):
        origin = next(i for i in range(8) if torch.equal(pool.acts[i], batch.acts[row]))
        assert torch.equal(pool.doc_ids[origin], batch.doc_ids[row])
    assert torch.equal(batch.positions, torch.arange(12).expand(4, 12)) and batch.source == ("planted",) * 4


def test_within_keeps_the_tokens_of_a_sequence_and_all_does_not() -> None:
    pool = [as_set(sequence) for sequence in generate(SPEC, 8, seed=0).acts]
    assert all(as_set(sequence) in pool for sequence in epoch(stream("within")))
    assert not any(as_set(sequence) in pool for sequence in epoch(stream("all")))


@pytest.mark.parametrize(("shuffle", "low", "high"), [("none", 0.8, 1.0), ("within", 0.1, 0.6), ("all", -0.06, 0.06)])
def test_shuffling_takes_the_persistence_away(shuffle: Shuffle, low: float, high: float) -> None:
    spec = SPEC.model_copy(update={"doc_length": None, "pos": 40})
    (data,) = batches(spec, 200, 0, 200, shuffle)
    on = (data.codes.dense() != 0).double()
    correlation = torch.corrcoef(torch.stack([on[:, :-1].flatten(), on[:, 1:].flatten()]))[0, 1]
    assert low < correlation < high


@each_shuffle
def test_held_out_codes_move_with_their_activations(shuffle: Shuffle) -> None:
    parts = list(batches(SPEC, 10, 0, 4, shuffle))
    assert [len(part.acts) for part in parts] == [4, 4, 2]
    for part in parts:
        torch.testing.assert_close(part.acts, part.codes.dense() @ part.dictionary, rtol=1e-5, atol=1e-5)
        assert torch.equal(part.batch().acts, part.acts) and part.batch().mask.all()


def test_held_out_sequences_are_no_training_sequences_of_the_same_seed() -> None:
    trained = {tuple(row) for row in as_set(generate(SPEC, 8, seed=0).acts)}
    held = {tuple(row) for part in batches(SPEC, 8, 0, 8) for row in as_set(part.acts)}
    # Tokens at which nothing fires are all alike.
    assert trained & held <= {(0.0,) * SPEC.d_in}


def test_a_trainer_can_train_on_it() -> None:
    source = PlantedStream(PLANTED["iid"], 4, 0, pool_sequences=8, site="here")
    assert isinstance(source, Stream)
    trainee = Trainee("topk", build("topk", d_in=48, d_sae=64, k=4), "here", TrainingConfig(), steps=6, lr=1e-3, seed=0)
    Trainer([trainee], source, steps=6).train()
    assert trainee.step_number == 6 and trainee.stopped is None


def test_batches_that_cannot_be_served_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 9 sequences from a pool of 8"):
        PlantedStream(SPEC, 9, 0, pool_sequences=8)
    with pytest.raises(ValueError, match="batch_sequences"):
        next(batches(SPEC, 8, 0, 0))
