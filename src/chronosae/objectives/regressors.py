"""Counts of each target's own few regressors firing together: what a regression on lagged firing needs, not F x F.

Regressors of target i: whether source j fired at t - l for its m candidates (j, l), then whether i itself fired at
t - 1 .. t - w. Counted on tokens that have all w predecessors, so that every target's counts are of one set of tokens.
Shapes: F targets, r = m + w regressors.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.kernels import count_regressors
from chronosae.objectives.history import EMPTY, History
from chronosae.objectives.tracker import TensorState

TABLE_BYTES = 2**24
"""Of a table [n, F r] of what fired; bounds the tokens handled at a time."""
BLOCK = 2**18
"""Regressor events handled at a time; bounds the workspace."""


class RegressorCounts(TensorState):
    """Counts over `tokens` tokens, for regressors that stay fixed from `start` on.

    `source`, `lag [F, r]`: the regressors (source EMPTY where there is none). `joint [F, r, r]`: tokens on which
    two regressors fired together, the diagonal their own counts. `with_target [F, r]`: tokens on which a regressor
    and the target fired. `target [F]`: tokens on which the target fired.
    """

    _tensors = ("source", "lag", "joint", "with_target", "target", "tokens", "first", "owner")

    def __init__(self, d_sae: int, window: int, slots: int, device: torch.device | str = "cpu") -> None:
        self.window, r = window, slots + window
        self.source = torch.full((d_sae, r), EMPTY, dtype=torch.int64, device=device)
        self.lag = torch.ones(d_sae, r, dtype=torch.int64, device=device)
        self.joint = torch.zeros(d_sae, r, r, device=device)
        self.with_target = torch.zeros(d_sae, r, device=device)
        self.target = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)
        # Who uses source j at lag l: `owner[first[k] : first[k + 1]]`, k = (l - 1) F + j, are flat places in [F, r].
        self.first = torch.zeros(window * d_sae + 1, dtype=torch.int64, device=device)
        self.owner = torch.zeros(d_sae * r, dtype=torch.int64, device=device)

    def start(self, source: Int[Tensor, "F m"], lag: Int[Tensor, "F m"]) -> None:
        """Count afresh for these candidates (EMPTY: none); every target's own lags are added."""
        d_sae = len(source)
        own = torch.arange(d_sae, device=source.device)[:, None].expand(-1, self.window)
        own_lag = torch.arange(1, self.window + 1, device=source.device).expand(d_sae, -1)
        self.source.copy_(torch.cat([source, own], 1))
        self.lag.copy_(torch.cat([lag, own_lag], 1))
        for counter in (self.joint, self.with_target, self.target, self.tokens):
            counter.zero_()
        key = torch.where(self.source < 0, self.window * d_sae, (self.lag - 1) * d_sae + self.source).flatten()
        ordered = key.sort(stable=True)
        self.owner.copy_(ordered.indices)
        every = torch.arange(len(self.first), device=key.device)
        self.first.copy_(torch.searchsorted(ordered.values, every))

    def add(self, seen: History) -> None:
        """Count these targets; those without a full history are left out."""
        full, regressors = seen.valid.all(1), (self.source, self.lag)
        self.tokens += full.sum()
        if not count_regressors(seen.firings(), full, regressors, self.joint, self.with_target, self.target):
            for piece in seen.pieces(max(TABLE_BYTES // self.source.numel(), 1)):
                self._add(piece)

    def _add(self, seen: History) -> None:
        full = seen.valid.all(1)
        n, (d_sae, r) = len(full), self.source.shape
        fired = torch.zeros(n, d_sae, dtype=torch.bool, device=full.device)
        token, now = torch.nonzero((seen.values != 0) & full[:, None], as_tuple=True)
        fired[token, seen.features[token, now]] = True
        self.target += fired.sum(0)
        on = torch.zeros(n, d_sae * r, dtype=torch.bool, device=full.device)
        blocks = list(self._events(seen, full))
        for token, place in blocks:
            on[token, place] = True
        on = on.view(n, d_sae, r)
        for token, place in blocks:
            target = place // r
            self.joint.view(d_sae * r, r).index_add_(0, place, on[token, target].to(self.joint.dtype))
            self.with_target.view(-1).index_add_(0, place, fired[token, target].to(self.joint.dtype))

    def _events(self, seen: History, full: Bool[Tensor, " n"]) -> Iterator[tuple[Tensor, Tensor]]:
        """(token, flat place in [F, r]) of every regressor that fired, `BLOCK` or a few more at a time."""
        token, lag, slot = torch.nonzero((seen.past_values != 0) & full[:, None, None], as_tuple=True)
        key = lag * len(self.target) + seen.past_features[token, lag, slot]
        uses = self.first[key + 1] - self.first[key]
        ends = uses.cumsum(0)
        start = 0
        while start < len(key):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(torch.searchsorted(ends, done + BLOCK, right=True)), start + 1)
            part = slice(start, stop)
            n, last = uses[part], int(ends[stop - 1]) - done
            offset = torch.arange(last, device=key.device) - (n.cumsum(0) - n).repeat_interleave(n)
            yield token[part].repeat_interleave(n), self.owner[self.first[key[part]].repeat_interleave(n) + offset]
            start = stop

    def halve(self) -> None:
        """Forget half of what was counted."""
        for counter in (self.joint, self.with_target, self.target, self.tokens):
            counter.mul_(0.5)

    def covariances(
        self, rows: Int[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows r r"], Float[Tensor, "rows r"], Float[Tensor, " rows"]]:
        """Covariance of the regressors, with the target, and the target's variance, float64, for these targets."""
        n = self.tokens.double().clamp(min=1)
        joint = self.joint[rows].double() / n
        mean, rate = joint.diagonal(dim1=1, dim2=2), self.target[rows].double() / n
        with_target = self.with_target[rows].double() / n - mean * rate[:, None]
        return joint - mean[:, :, None] * mean[:, None, :], with_target, rate * (1 - rate)
