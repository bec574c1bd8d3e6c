"""Batches made ahead are the same batches: in order, to the checkpoint, to the error; and the thread ends."""

import copy
import gc
import threading
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronosae.activations import (
    Ahead,
    Encoder,
    LiveStream,
    SequenceBatch,
    Sequences,
    open_stream,
    training_stream,
)
from chronosae.config import ActivationsConfig, TrainingConfig, UserError
from chronosae.corpora import Mixture
from chronosae.presets import build
from chronosae.training import Trainee, Trainer

SITE = "blocks.0.hook_resid_post"


class Counting:
    """Batch n is the number n; `spoilt` raises."""

    def __init__(self, spoilt: int | None = None, error: Exception | None = None) -> None:
        self.n, self.spoilt, self.error = 0, spoilt, error
        self.calls: Counter[str] = Counter()
        self.made = threading.Semaphore(0)

    def next(self):
        self.calls[threading.current_thread().name.split("_")[0]] += 1
        if self.n == self.spoilt and self.error is not None:
            raise self.error
        self.n += 1
        self.made.release()
        return numbered(self.n - 1)

    @property
    def epochs(self) -> float:
        return self.n / 10

    def bookmark(self):
        n = self.n
        return lambda: {"n": n}

    def state_dict(self):
        return self.bookmark()()

    def load_state_dict(self, state) -> None:
        self.n = state["n"]


def numbered(n: int) -> dict[str, SequenceBatch]:
    return {SITE: whole_batch(torch.full((1, 1, 1), float(n)))}


def whole_batch(acts) -> SequenceBatch:
    ids = torch.zeros(acts.shape[:2], dtype=torch.int64, device=acts.device)
    return SequenceBatch(acts, torch.ones_like(ids, dtype=torch.bool), ids, ids, ids, ("s",) * len(acts))


def number(batches) -> int:
    return int(batches[SITE].acts)


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("chronosae-ahead")]


def flat(state) -> list:
    """A saved state with its tensors as lists."""
    if isinstance(state, dict):
        return [(key, flat(value)) for key, value in state.items()]
    if isinstance(state, list):
        return [flat(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state


def assert_equal_batches(left, right) -> None:
    assert list(left) == list(right)
    for site, batch in left.items():
        for name in ("acts", "mask", "tokens", "positions", "doc_ids"):
            assert torch.equal(getattr(batch, name), getattr(right[site], name)), (site, name)
        assert batch.source == right[site].source


def stored(cfg, store, ahead="auto"):
    acts = cfg.activations.model_copy(update={"store": store, "ahead": ahead})
    return cfg.model_copy(update={"activations": acts})


@pytest.fixture(params=["stream", "cache"])
def fresh(request, tiny, run_config, tmp_path):
    """A function that opens the same stream again."""
    cfg = stored(run_config(), request.param)
    return lambda: open_stream(cfg, tiny, tmp_path / "cache")


@pytest.mark.parametrize("depth", [1, 3])
def test_batches_states_and_epochs_are_those_of_the_stream_itself(fresh, depth):
    plain = fresh()
    expected = [(flat(plain.state_dict()), plain.epochs, plain.next()) for _ in range(8)]
    with Ahead(fresh(), depth) as ahead:
        for state, epochs, batches in expected:
            assert flat(ahead.state_dict()) == state and ahead.epochs == epochs
            assert_equal_batches(ahead.next(), batches)


@pytest.mark.parametrize("stop", [0, 1, 2, 5])
def test_a_run_stopped_with_batches_in_flight_goes_on_with_them_ahead_or_not(fresh, tmp_path, stop):
    whole = fresh()
    expected = [whole.next() for _ in range(stop + 4)][stop:]
    with Ahead(fresh(), 2) as first:
        for _ in range(stop):
            first.next()
        torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    with Ahead(fresh(), 2) as second:
        for _ in range(3):
            second.next()  # thrown away, with what was made behind it
        second.load_state_dict(state)
        for batches in expected:
            assert_equal_batches(second.next(), batches)
    plain = fresh()
    plain.load_state_dict(state)
    for batches in expected:
        assert_equal_batches(plain.next(), batches)


@settings(max_examples=8)
@given(
    batch=st.integers(1, 5),
    chunk=st.integers(1, 7),
    depth=st.integers(1, 4),
    stop=st.integers(0, 3),
    read=st.booleans(),
)
def test_order_and_place_are_exact_for_any_sizes(tiny, batch, chunk, depth, stop, read):
    def stream():
        cfg = ActivationsConfig(context=16, shuffle_buffer=5, harvest_sequences=chunk)
        sources = [Listed(f"s{n}", ["z" * n, "y" * (n // 2)]) for n in (23, 40, 57)]
        sequences = Sequences(Mixture(sources, seed=3), Encoder(tiny.tokenizer), cfg, seed=3)
        return LiveStream(sequences, tiny, [SITE], batch_sequences=batch, harvest_sequences=chunk)

    plain, resumed = stream(), stream()
    expected = [plain.next() for _ in range(stop + 1)]
    with Ahead(stream(), depth) as ahead:
        for batches in expected[:-1]:
            assert_equal_batches(ahead.next(), batches)
            if read:
                ahead.state_dict()
        resumed.load_state_dict(ahead.state_dict())
    assert_equal_batches(resumed.next(), expected[-1])


class Listed:
    def __init__(self, name, rows, fingerprint="listed"):
        self.name, self._rows, self.fingerprint = name, rows, fingerprint

    def documents(self, start=0):
        return iter(self._rows[start:])


def test_the_next_batches_are_made_while_the_last_one_is_used_and_no_more_than_asked_for():
    stream = Counting()
    with Ahead(stream, depth=2) as ahead:
        assert number(ahead.next()) == 0
        for _ in range(3):
            assert stream.made.acquire(timeout=10)  # by the thread alone: nobody calls next
        assert not stream.made.acquire(timeout=0.05)
        assert [number(ahead.next()) for _ in range(4)] == [1, 2, 3, 4]
    assert list(stream.calls) == ["chronosae-ahead"]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("error", [UserError("corpus 'a' is empty"), KeyError("site"), StopIteration()])
def test_an_error_comes_as_it_was_raised_with_its_batch_and_none_is_asked_for_behind_it(depth, error):
    stream = Counting(spoilt=3, error=error)
    with Ahead(stream, depth) as ahead:
        assert [number(ahead.next()) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(type(error)) as raised:
            ahead.next()
        assert raised.value is error and stream.calls.total() == 4
        assert ahead.state_dict() == {"n": 3} and ahead.epochs == 0.3
        stream.spoilt = None
        assert number(ahead.next()) == 3


def test_an_error_in_the_middle_of_a_harvest_keeps_its_message(tiny, run_config):
    class Shifted:
        bos_token_id, eos_token_id, pad_token_id = 0, 1, 2

        def __call__(self, texts, **options):
            return {"input_ids": [[999] * 40 for _ in texts]}

    from chronosae.subject import Subject

    with (
        Ahead(open_stream(run_config(), Subject(tiny.model, Shifted(), "tiny"))) as ahead,
        pytest.raises(UserError, match=r"^subject\.tokenizer makes token 999, but tiny knows only 260"),
    ):
        ahead.next()


def test_closing_waits_for_the_batch_in_hand_and_leaves_no_thread():
    entered, leave = threading.Event(), threading.Event()

    class Slow(Counting):
        def next(self):
            if self.n:
                entered.set()
                assert leave.wait(10)
            return super().next()

    stream = Slow()
    ahead = Ahead(stream, depth=3)
    ahead.next()
    assert entered.wait(10)
    closing = threading.Thread(target=ahead.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    leave.set()
    closing.join(10)
    assert not closing.is_alive() and not ahead_threads()
    assert ahead.state_dict() == {"n": 1} and stream.n == 2  # of the other two none was begun
    ahead.close()


def test_one_that_nobody_closed_ends_its_thread_when_it_is_forgotten():
    ahead = Ahead(Counting())
    ahead.next()
    threads = ahead_threads()
    assert threads
    del ahead
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert not ahead_threads()


def test_the_thread_computes_with_as_many_threads_and_leaves_the_global_generator_alone(tiny, run_config):
    torch.manual_seed(0)
    before, seen = torch.get_rng_state(), []
    stream = open_stream(run_config(), tiny)
    plain = stream.next
    stream.next = lambda: seen.append(torch.get_num_threads()) or plain()
    with Ahead(stream) as ahead:
        for _ in range(3):
            ahead.next()
    assert set(seen) == {torch.get_num_threads()} and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("ahead", "expected"), [("auto", False), ("never", False), ("always", True)])
def test_a_run_makes_batches_ahead_where_it_is_told_to_and_on_a_cpu_not_by_itself(tiny, run_config, ahead, expected):
    with training_stream(stored(run_config(), "stream", ahead), tiny) as stream:
        assert isinstance(stream, Ahead) == expected
        stream.next()
        assert bool(ahead_threads()) == expected
    assert not ahead_threads()


def test_the_thread_of_a_run_ends_with_an_error_in_it(tiny, run_config):
    with pytest.raises(KeyboardInterrupt), training_stream(stored(run_config(), "stream", "always"), tiny) as stream:
        stream.next()
        raise KeyboardInterrupt
    assert not ahead_threads()


def test_a_forward_pass_that_fills_several_batches_is_begun_with_the_first_of_them(tiny, run_config):
    acts = run_config().activations.model_copy(update={"ahead": "always", "harvest_sequences": 20})
    with training_stream(run_config().model_copy(update={"activations": acts}), tiny) as stream:
        assert isinstance(stream, Ahead) and stream._depth == 4  # of 6 sequences


@pytest.mark.parametrize("store", ["stream", "cache"])
def test_training_ahead_is_bit_equal_interrupted_or_not(tiny, run_config, tmp_path, store):
    def train(ahead, steps=5, state=None, stop_at=None):
        sae = build("topk", d_in=16, d_sae=32, k=4, seed=0)
        trainee = Trainee("topk", sae, SITE, TrainingConfig(), steps=5, lr=1e-2, seed=0)
        with training_stream(stored(run_config(), store, ahead), tiny, tmp_path / "cache") as stream:
            trainer = Trainer([trainee], stream, steps=steps)
            trainer.should_stop = lambda: trainer.step_number == stop_at
            if state is not None:
                trainer.load_state_dict(copy.deepcopy(state))
            trainer.train()
            return trainer.state_dict(), [p.detach().clone() for p in sae.parameters()]

    torch.manual_seed(0)
    _, plain = train("never")
    _, ahead = train("always")
    state, _ = train("always", stop_at=3)
    torch.manual_seed(5)  # nothing depends on it
    _, resumed = train("always", state=state)
    _, resumed_without = train("never", state=state)
    for other in (ahead, resumed, resumed_without):
        assert all(torch.equal(left, right) for left, right in zip(plain, other, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_no_batch_is_overwritten_while_it_is_used():
    class Filling(Counting):
        def next(self):
            n = number(super().next())
            ones = torch.full((2, 2048, 768), 1.0, device="cuda")
            for _ in range(20):
                ones = ones * 1.0
            return {SITE: whole_batch(ones * n)}

    with Ahead(Filling(), device="cuda") as ahead:
        for n in range(20):
            acts = ahead.next()[SITE].acts
            total = sum((acts * i).sum() for i in range(50))
            del acts
            assert float(total) == pytest.approx(n * 1225 * 2 * 2048 * 768, rel=1e-5)


class Noted:
    """Stands in for torch.cuda; notes who waits for what."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def current_stream(self, device) -> str:
        return "caller"

    def Stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: self.notes.append(f"thread waits for {other}"))

    @contextmanager
    def stream(self, lane):
        self.notes.append("thread begins")
        yield

    def Event(self):
        return SimpleNamespace(
            record=lambda stream: self.notes.append("thread notes the end"),
            wait=lambda stream: self.notes.append(f"{stream} waits for the end"),
        )


def test_the_thread_waits_for_what_was_begun_before_it_and_the_caller_for_each_batch(monkeypatch):
    streams = Noted()
    monkeypatch.setattr(torch, "get_device_module", lambda device: streams)
    with Ahead(Counting(spoilt=1, error=UserError("no more"))) as ahead:
        ahead.next()
        with pytest.raises(UserError):
            ahead.next()
    notes = streams.notes
    assert notes[:3] == ["thread waits for caller", "thread begins", "thread notes the end"]
    assert sorted(notes[3:]) == ["caller waits for the end", "thread begins"]  # the second batch was never there
