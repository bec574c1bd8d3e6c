"""Where watched latents fire in a few contexts: as many numbers as there are firings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes, SparseCodes

# Codes looked at at once.
AT_ONCE = 2**22


@dataclass(frozen=True)
class Events:
    """Activations above 0, one entry each."""

    row: Int[Tensor, " events"]
    """Number of the context among all."""
    position: Int[Tensor, " events"]
    place: Int[Tensor, " events"]
    """Place of the latent among the watched ones."""
    value: Float[Tensor, " events"]
    rows: Int[Tensor, " contexts"]
    """The contexts looked at."""
    n_watched: int

    @cached_property
    def here(self) -> Int[Tensor, " events"]:
        """Place of the context among `rows`."""
        order = self.rows.argsort()
        return order[torch.searchsorted(self.rows[order], self.row)]

    def at(
        self, row: Int[Tensor, "*some"], position: Int[Tensor, "*some"], place: Int[Tensor, "*some"]
    ) -> Float[Tensor, "*some"]:
        """Activations of watched latents anywhere in these contexts."""
        if not len(self.value):
            return torch.zeros(row.shape, device=self.value.device)
        known, value = self._sorted
        wanted = self._key(row, position, place)
        found = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
        return torch.where(known[found] == wanted, value[found], 0.0)

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        known, order = self._key(self.row, self.position, self.place).sort()
        return known, self.value[order]

    def _key(self, row: Tensor, position: Tensor, place: Tensor) -> Tensor:
        # Contexts are shorter than 2^20 tokens.
        return ((row << 20) + position) * self.n_watched + place


def events(codes: Codes, rows: Int[Tensor, " batch"], watched: Sequence[int]) -> Iterator[Events]:
    """The firings of the watched latents in a batch, a few contexts at a time.

    Arguments:
        rows: number of each context of the batch.
    """
    device = codes.values.device
    wanted = torch.tensor(watched, dtype=torch.long, device=device)
    place_of = torch.full((codes.d_sae,), -1, device=device)
    place_of[wanted] = torch.arange(len(watched), device=device)
    sparse = isinstance(codes, SparseCodes)
    step = max(1, AT_ONCE // max(1, codes.values.shape[1] * (codes.values.shape[2] if sparse else len(watched))))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        if isinstance(codes, SparseCodes):
            values = codes.values[part]
            places = place_of[codes.indices[part]]
            row, position, slot = ((values > 0) & (places >= 0)).nonzero(as_tuple=True)
            place = places[row, position, slot]
        else:
            values = codes.values[part][..., wanted]
            row, position, slot = (values > 0).nonzero(as_tuple=True)
            place = slot
        some = rows[part].to(device)
        yield Events(some[row], position, place, values[row, position, slot].float(), some, len(watched))
