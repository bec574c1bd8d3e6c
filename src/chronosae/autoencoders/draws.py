"""Random numbers of a training step, made from (seed, step, sequence, purpose) and never from the order of calls."""

from dataclasses import dataclass
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import add_normal


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
        return torch.Generator(device).manual_seed(self._seed(purpose, sequence))

    def chance(self, purpose: str, rate: float, counters: Int[Tensor, "batch *more"]) -> Bool[Tensor, "batch *more"]:
        """True with probability `rate`, decided by the sequence and the counter alone.

        For things that don't come in an order of their own, such as the active features of a token: what a generator
        would give them depends on how many are listed before.
        """
        keys = [self._key(purpose, index) for index in range(counters.shape[0])]
        key = torch.tensor(keys, device=counters.device).view(-1, *[1] * (counters.dim() - 1))
        return _mix(_mix(counters ^ key) + key) < int(rate * 2**32)

    def _seed(self, purpose: str, sequence: int) -> int:
        return (self._key(purpose, sequence) + (self.seed << 32)) % 2**63

    def _key(self, purpose: str, sequence: int) -> int:
        return crc32(f"{self.seed}/{self.step}/{self.first + sequence}/{purpose}".encode())

    def plus_normal(self, purpose: str, x: Float[Tensor, "batch *more d"], level: float) -> Tensor:
        """`x` plus normal noise of standard deviation `level`; on a GPU the noise is of the GPU's own generator."""
        if x.device.type == "cpu":
            keys = [self._seed(purpose, index) for index in range(x.shape[0])]
            return add_normal(x.reshape(-1, x.shape[-1]), level, keys).view(x.shape)
        noise = torch.empty_like(x)
        for index in range(x.shape[0]):
            noise[index].normal_(generator=self.generator(purpose, index, x.device))
        return x + level * noise

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1) in the shape of `like [batch, ...]`."""
        out = torch.empty_like(like)
        for index in range(like.shape[0]):
            out[index].uniform_(generator=self.generator(purpose, index, like.device))
        return out


def _mix(x: Tensor) -> Tensor:
    """32 bits from the lowest 32 of int64, each depending on all of them (the finaliser of MurmurHash3)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)
