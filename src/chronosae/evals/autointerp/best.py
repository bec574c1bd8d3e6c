"""The best examples of every latent, kept while contexts stream by: memory for the kept ones only."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.evals.autointerp.events import Events


class Best:
    """For each latent the `k` contexts with the largest keys, and the codes of the example in each.

    At most one example a context: examples never overlap, neither among themselves nor between those an explanation
    is made from and those it is judged on.

    Arguments:
        n_latents: latents watched.
        k: examples a latent.
        window: tokens of an example.
        first: for every context, the first position that an example may hold.
        lengths: for every context, one past the last of them.
    """

    def __init__(
        self, n_latents: int, k: int, window: int, first: Int[Tensor, " all"], lengths: Int[Tensor, " all"]
    ) -> None:
        device = first.device
        self.keys = torch.zeros(n_latents, k, device=device)
        """0 where there is no example yet."""
        self.rows = torch.full((n_latents, k), -1, device=device)
        self.starts = torch.zeros(n_latents, k, dtype=torch.long, device=device)
        """First position of the example."""
        self.values = torch.zeros(n_latents, k, device=device)
        """Activation at the token that the example is chosen for."""
        self.codes = torch.zeros(n_latents, k, window, device=device)
        self._window, self._first, self._lengths = window, first, lengths

    def offer(self, keys: Float[Tensor, " events"], events: Events) -> None:
        """Consider every context at the firing with its largest key (above 0; of equals the first)."""
        k = self.keys.shape[1]
        largest, positions = self._champions(keys, events)
        # What is kept stands first and the sort is stable: of equals the earlier context stays.
        merged, order = torch.cat([self.keys, largest], 1).sort(dim=1, descending=True, stable=True)
        self.keys, order = merged[:, :k], order[:, :k]
        latent, slot = ((order >= k) & (self.keys > 0)).nonzero(as_tuple=True)
        new = order[latent, slot] - k  # context among those offered
        kept = order.clamp(max=k - 1)
        self.rows, self.starts, self.values = (part.gather(1, kept) for part in (self.rows, self.starts, self.values))
        self.codes = self.codes.gather(1, kept.unsqueeze(-1).expand(-1, -1, self._window))
        row, position = events.rows[new], positions[latent, new]
        start = window_starts(position, self._first[row], self._lengths[row], self._window)
        inside = start.unsqueeze(1) + torch.arange(self._window, device=start.device)
        self.rows[latent, slot] = row
        self.starts[latent, slot] = start
        self.values[latent, slot] = events.at(row, position, latent)
        self.codes[latent, slot] = events.at(
            row.unsqueeze(1).expand_as(inside), inside, latent.unsqueeze(1).expand_as(inside)
        )

    def _champions(
        self, keys: Float[Tensor, " events"], events: Events
    ) -> tuple[Float[Tensor, "latents contexts"], Int[Tensor, "latents contexts"]]:
        """Largest key of each latent in each context offered, and its position."""
        n = len(events.rows)
        group = events.place * n + events.here
        largest = keys.new_zeros(len(self.keys) * n).scatter_reduce_(0, group, keys, "amax")
        best = keys == largest[group]
        positions = torch.full_like(largest, torch.iinfo(torch.long).max, dtype=torch.long)
        positions.scatter_reduce_(0, group[best], events.position[best], "amin")
        return largest.view(-1, n), positions.view(-1, n)


def window_starts(
    positions: Int[Tensor, " n"], first: Int[Tensor, " n"], lengths: Int[Tensor, " n"], window: int
) -> Int[Tensor, " n"]:
    """Where examples around `positions` begin: as many tokens on each side as there are, always `window` in all."""
    return torch.maximum(first, torch.minimum(positions - window // 2, lengths - window))
