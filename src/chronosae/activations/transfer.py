"""From this machine's memory to a GPU, while the next batch is being read."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class PinnedSlots:
    """Two sets of page-locked buffers that take turns: one is filled while the other is on its way.

    Copies are put on the current stream of the calling thread and not waited for. A set is filled again only when what
    it held has arrived.

    Arguments:
        device: where the contents go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._streams = device, torch.get_device_module(device)
        self._slots: list[dict[str, Tensor]] = [{}, {}]
        self._sent: list[Any] = [None, None]
        self._turn = 0

    def buffers(self, wanted: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
        """Buffers of these shapes and types, to be filled and then sent; what they hold now is of no use."""
        self._turn = 1 - self._turn
        if (sent := self._sent[self._turn]) is not None:
            sent.synchronize()
        slot = self._slots[self._turn]
        for name, (shape, dtype) in wanted.items():
            if name not in slot or slot[name].shape != shape or slot[name].dtype != dtype:
                slot[name] = torch.empty(shape, dtype=dtype, pin_memory=self._device.type == "cuda")
        return {name: slot[name] for name in wanted}

    def send(self, filled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latest buffers' contents, on the device."""
        copies = {name: t.to(self._device, non_blocking=True, copy=True) for name, t in filled.items()}
        self._sent[self._turn] = event = self._streams.Event()
        event.record(self._streams.current_stream(self._device))
        return copies
