"""Random numbers of a training step, made from (seed, step, sequence, purpose) and never from the order of calls."""

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The randomness of one step. Sequence i of a batch draws the same numbers whatever its neighbours are.

    `first` is the number of the batch's first sequence in the step, so that a step may be split over machines.
    """

    seed: int
    step: int
    first: int = 0

    def generator(self, purpose: str, sequence: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for one purpose and sequence."""
        key = crc32(f"{self.seed}/{self.step}/{self.first + sequence}/{purpose}".encode())
        return torch.Generator(device).manual_seed((key + (self.seed << 32)) % 2**63)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape of `like [batch, ...]`."""
        out = torch.empty_like(like)
        for index in range(like.shape[0]):
            out[index].normal_(generator=self.generator(purpose, index, like.device))
        return out

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1) in the shape of `like [batch, ...]`."""
        out = torch.empty_like(like)
        for index in range(like.shape[0]):
            out[index].uniform_(generator=self.generator(purpose, index, like.device))
        return out
