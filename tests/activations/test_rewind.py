"""A rewound stream is the stream: batch for batch, place for place, whether batches were kept or are read again."""

from typing import Any

import pytest
import torch

from chronosae.activations import Rewindable, open_stream
from chronosae.subject import Subject


class Counted:
    """Counts the forward passes of a subject."""

    def __init__(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes, real = 0, subject.activations

        def activations(*args: Any, **kwargs: Any) -> Any:
            self.passes += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(subject, "activations", activations)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[site].acts, b[site].acts) and a[site].source == b[site].source for site in b)


@pytest.mark.parametrize("kept_bytes", [2**28, 0])
@pytest.mark.parametrize("read", [0, 1, 3])
def test_after_rewinding_every_batch_and_every_place_is_the_streams_own(tiny, run_config, kept_bytes, read):
    cfg = run_config()
    fresh, stream = open_stream(cfg, tiny), Rewindable(open_stream(cfg, tiny), kept_bytes)
    first = [stream.next() for _ in range(read)]
    stream.rewind()
    for step in range(5):
        assert stream.epochs == fresh.epochs
        batches = fresh.next()
        assert step >= read or same(first[step], batches)
        assert same(stream.next(), batches)
        other = open_stream(cfg, tiny)
        other.load_state_dict(stream.state_dict())
        following = open_stream(cfg, tiny)
        following.load_state_dict(fresh.state_dict())
        assert same(other.next(), following.next())


def test_what_was_read_is_not_harvested_again(tiny, run_config, monkeypatch):
    counted = Counted(tiny, monkeypatch)
    stream = Rewindable(open_stream(run_config(), tiny))
    for _ in range(3):
        stream.next()
    before = counted.passes
    stream.rewind()
    for _ in range(3):
        stream.next()
    assert counted.passes == before > 0


def test_a_loaded_place_counts_and_not_what_was_kept(tiny, run_config):
    cfg = run_config()
    fresh = open_stream(cfg, tiny)
    for _ in range(4):
        fresh.next()
    stream = Rewindable(open_stream(cfg, tiny))
    stream.next()
    stream.rewind()
    stream.load_state_dict(fresh.state_dict())
    assert same(stream.next(), fresh.next())
