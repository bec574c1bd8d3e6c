"""Exact lagged co-activation counts of every pair, for dictionaries small enough to hold them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import Codes
from chronosae.autoencoders.trackers import as_slots, same_document, surprise
from chronosae.autoencoders.trackers.history import history
from chronosae.config import UserError

MAX_FEATURES = 4096
PAIRS_AT_A_TIME = 2**20


class LaggedCounts:
    """c_l[j, i]: tokens t at which feature i fired while j had fired at t - l, l = 0 .. window, exact.

    Pairs lie in one document of one sequence, both tokens unmasked. With them, for each lag, the number of such pairs
    of tokens and how often each feature fired at their first and second token. (window + 1) F^2 floats: use
    `TemporalCorrelationTracker` above F = 4096.

    Raises:
        UserError: more than 4096 features, or a window below 1.
    """

    def __init__(self, d_sae: int, window: int = 4, device: torch.device | str = "cpu") -> None:
        if d_sae > MAX_FEATURES or window < 1:
            raise UserError(
                f"exact lagged counts are for at most {MAX_FEATURES} features and a window of at least 1; got {d_sae},"
                f" {window}; use TemporalCorrelationTracker for larger dictionaries"
            )
        self.d_sae, self.window = d_sae, window
        self.together: Float[Tensor, "lags F F"] = torch.zeros(window + 1, d_sae, d_sae, device=device)
        self.source: Float[Tensor, "lags F"] = torch.zeros(window + 1, d_sae, dtype=torch.float64, device=device)
        self.target: Float[Tensor, "lags F"] = torch.zeros_like(self.source)
        self.pairs: Float[Tensor, " lags"] = torch.zeros(window + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(
        self,
        codes: Codes,
        mask: Bool[Tensor, "batch pos"] | None = None,
        doc_ids: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Count a batch `[batch, pos, ...]`; all unmasked and one document a sequence by default."""
        slots = as_slots(codes)
        if mask is None:
            mask = torch.ones(slots.values.shape[:2], dtype=torch.bool, device=slots.values.device)
        seen = history(slots, same_document(mask, doc_ids, self.window), mask.nonzero())
        for piece in seen.pieces(max(PAIRS_AT_A_TIME // seen.values.shape[1] ** 2, 1)):
            now = (piece.features, piece.values != 0)
            self._add(0, now, now, len(piece.valid))
            for lag in range(1, self.window + 1):
                valid = piece.valid[:, lag - 1]
                past = (piece.past_features[:, lag - 1], piece.past_values[:, lag - 1] != 0)
                self._add(lag, past, (piece.features, now[1] & valid[:, None]), int(valid.sum()))

    def surprise(self, lag: int) -> Float[Tensor, "F F"]:
        """z of sources (rows) and targets (columns) against e = n_j n_i / N; -inf for a feature with itself."""
        expected = self.source[lag][:, None] * self.target[lag] / self.pairs[lag].clamp(min=1)
        return surprise(self.together[lag].double(), expected).fill_diagonal_(-torch.inf)

    def covariance(self) -> Float[Tensor, "lags F F"]:
        """cov(a_j(t - l), a_i(t)) of the 0 / 1 activities, float32."""
        pairs = self.pairs.clamp(min=1)[:, None]
        source, target = (self.source / pairs).float(), (self.target / pairs).float()
        return self.together / pairs[..., None].float() - source[:, :, None] * target[:, None, :]

    def _add(self, lag: int, past: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor], pairs: int) -> None:
        both = past[1][:, :, None] & now[1][:, None, :]
        place = (past[0][:, :, None] * self.d_sae + now[0][:, None, :])[both]
        self.together[lag].view(-1).index_add_(0, place, torch.ones_like(place, dtype=torch.float32))
        self.source[lag] += torch.bincount(past[0][past[1]], minlength=self.d_sae)
        self.target[lag] += torch.bincount(now[0][now[1]], minlength=self.d_sae)
        self.pairs[lag] += pairs
