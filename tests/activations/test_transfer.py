"""Buffers that take turns: none is written to while what it held is on its way."""

from typing import ClassVar

import torch

from chronosae.activations.cached import PinnedSlots


class Event:
    """Notes when it is waited for."""

    waited: ClassVar[list["Event"]] = []

    def record(self, stream: object) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.waited.append(self)


class Streams:
    """Stands in for torch.cuda."""

    Event = Event

    @staticmethod
    def current_stream(device: torch.device) -> str:
        return f"stream of {device}"


def send(slots: PinnedSlots, value: float, rows: int = 2) -> torch.Tensor:
    buffers = slots.buffers({"x": ((rows, 3), torch.float32)})
    buffers["x"].fill_(value)
    return slots.send(buffers)["x"]


def test_what_was_sent_stays_when_its_buffer_is_filled_again():
    slots = PinnedSlots(torch.device("cpu"))
    sent = [send(slots, float(i)) for i in range(5)]
    assert [t.unique().tolist() for t in sent] == [[float(i)] for i in range(5)]


def test_a_buffer_is_filled_again_only_when_what_it_held_has_arrived(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: Streams)
    Event.waited = []
    slots = PinnedSlots(torch.device("cpu"))
    send(slots, 0.0)
    first = slots._sent[slots._turn]
    send(slots, 1.0)
    assert not Event.waited and first.stream == "stream of cpu"
    send(slots, 2.0)
    assert Event.waited == [first]


def test_a_batch_of_another_size_gets_buffers_of_its_own():
    slots = PinnedSlots(torch.device("cpu"))
    assert [send(slots, 1.0, rows).shape[0] for rows in (2, 2, 4, 3)] == [2, 2, 4, 3]
