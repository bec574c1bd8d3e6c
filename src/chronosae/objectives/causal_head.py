"""The predictor of what fires from what fired before: its weights, and how they are looked up (DESIGN 5.C).

    P(z_{t,i} > 0) = sigma(b_i + sum_k sum_j W^(k)_ij y_{t-k,j}),   y = z / RMS of z where it is active

Everything follows the active codes: no tensor has tokens x F or, unless `dense`, F x F elements.
Shapes: F features, w lags (lag k = 1..w at index k - 1), m candidate entries a target, r rank, n tokens, k slots,
q target features a token.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chronosae.kernels import EntryKeys, Predictor, lagged_logits, sparse_decode, triple_weights, unit_values
from chronosae.objectives.history import EMPTY, History

DENSE_FEATURES = 4096
"""Features above which a dense F x F matrix a lag is refused."""
KEEP = 0.99
"""Share of the running mean square that a batch leaves."""


@runtime_checkable
class PredictorSize(Protocol):
    """What a head is made from: the options of the causal_prediction term."""

    window: int
    rank: int
    entries: int
    dense: bool
    tau: float
    lr_multiplier: float


def check_dense(dense: bool, d_sae: int) -> None:
    """ValueError when the matrices of `dense` would be too large."""
    if dense and d_sae > DENSE_FEATURES:
        raise ValueError(
            f"a dense causal_prediction has F x F weights a lag, allowed to F = {DENSE_FEATURES}; got {d_sae}"
            " (use dense: false, low rank plus candidate pairs)"
        )


class PredictionHead(nn.Module):
    """b and W of the prediction, and the scale of every feature.

    W^(k)_ij = `U[i, k-1] . V[j, k-1]`, which starts at 0, plus `values[i, e]` for the entry e of target i that names
    (source j, lag k): `source[i, e]`, `lag[i, e]`; or `W[k-1, i, j]` when dense.

    Raises:
        ValueError: dense with more than `DENSE_FEATURES` features.
    """

    U: nn.Parameter
    V: nn.Parameter
    values: nn.Parameter
    W: nn.Parameter
    source: Tensor
    lag: Tensor
    mean_square: Tensor
    """Running mean of z^2 where a feature is active, [F]; 0 before it first fires."""
    started: Tensor

    def __init__(self, cfg: PredictorSize, d_sae: int) -> None:
        super().__init__()
        check_dense(cfg.dense, d_sae)
        self.window, self.dense, self.tau = cfg.window, cfg.dense, cfg.tau
        self.lr_multiplier = cfg.lr_multiplier
        self.b = nn.Parameter(torch.zeros(d_sae))
        if cfg.dense:
            self.W = nn.Parameter(torch.zeros(cfg.window, d_sae, d_sae))
        else:
            self.U = nn.Parameter(torch.zeros(d_sae, cfg.window, cfg.rank))
            self.V = nn.Parameter(torch.randn(d_sae, cfg.window, cfg.rank) / cfg.rank**0.5)
            self.values = nn.Parameter(torch.zeros(d_sae, cfg.entries))
            self.register_buffer("source", torch.full((d_sae, cfg.entries), EMPTY))
            self.register_buffer("lag", torch.ones(d_sae, cfg.entries, dtype=torch.int64))
        self._keys = EntryKeys()
        self.register_buffer("mean_square", torch.zeros(d_sae))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def observe(self, features: Int[Tensor, " active"], values: Float[Tensor, " active"], n_tokens: int) -> None:
        """Account for a batch's active codes: scales, and on the first call b = logit of the (smoothed) firing rate."""
        count = torch.bincount(features, minlength=len(self.b))
        energy = torch.zeros_like(self.b, dtype=torch.float64).index_add_(0, features, values.double().square())
        self.observe_sums(count, energy, n_tokens)

    @torch.no_grad()
    def observe_sums(self, count: Int[Tensor, " F"], energy: Float[Tensor, " F"], n_tokens: int) -> None:
        """The same, given how often each feature was active in how many tokens, and the sum of its squares."""
        if n_tokens == 0:
            return
        mean = (energy / count.clamp(min=1)).to(self.mean_square.dtype)
        old = torch.where(self.mean_square == 0, mean, self.mean_square)
        self.mean_square.copy_(torch.where(count > 0, old + (1 - KEEP) * (mean - old), self.mean_square))
        # Where it is known without waiting for a GPU, most steps end here.
        if self.started.is_cuda or not self.started:
            rate = ((count + 0.5) / (n_tokens + 1)).logit().to(self.b.dtype)
            self.b.copy_(torch.where(self.started, self.b, rate))
            self.started.fill_(True)

    def scaled(self, features: Int[Tensor, "*n"], values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """y = z / RMS; 0 for features not seen to fire yet."""
        return unit_values(features, values, self.mean_square)

    def lookup(
        self, targets: Int[Tensor, "n q"], past: Int[Tensor, "n w k"], y: Float[Tensor, "n w k"]
    ) -> Tensor | None:
        """Log-odds [n, q] of the target features, candidates included; None where only tensor operations can."""
        if self.dense:
            return None
        parts = self.b, self.U, self.V, self.values, self._keys.of(self.source, self.lag)
        return lagged_logits(targets, past, y, Predictor(*parts))

    def drive(
        self, targets: Int[Tensor, "n q"], past: Int[Tensor, "n w k"], y: Float[Tensor, "n w k"]
    ) -> Float[Tensor, "n q"]:
        """`sum_k sum_j W^(k)_ij y_{t-k,j}` of target features, without the candidates' part."""
        if self.dense:
            return (self.block(targets, past) * y.unsqueeze(2)).sum((1, 3))
        rows = past * self.window + torch.arange(self.window, device=past.device).unsqueeze(-1)
        context = sparse_decode(rows, y, self.V.flatten(0, 1))
        return (self.U[targets].flatten(2) @ context.flatten(1).unsqueeze(-1)).squeeze(-1)

    def block(self, targets: Int[Tensor, "n q"], past: Int[Tensor, "n w k"]) -> Float[Tensor, "n w q k"]:
        """W^(k)_ij of every target and past feature of each token, without the candidates' part."""
        lags = torch.arange(self.window, device=past.device)
        if self.dense:
            return self.W[lags[:, None, None], targets[:, None, :, None], past[:, :, None, :]]
        return torch.einsum("niwr,nwjr->nwij", self.U[targets], self.V[past, lags[:, None]])

    def weight(
        self, source: Int[Tensor, " p"], target: Int[Tensor, " p"], lag: Int[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        """W^(lag)_{target, source} of some triples, whole."""
        if self.dense:
            return self.W[lag - 1, target, source]
        return triple_weights((source, target, lag), (self.U, self.V), self.values, (self.source, self.lag))

    @torch.no_grad()
    def interaction(
        self,
        source: Int[Tensor, " p"],
        target: Int[Tensor, " p"],
        lag: Int[Tensor, " p"],
        source_value: Float[Tensor, " p"],
        target_value: Float[Tensor, " p"],
    ) -> Float[Tensor, " p"]:
        """R of co-active pairs where it counts, 0 elsewhere: what the correlation tracker averages into C."""
        y = self.scaled(target, target_value) * self.scaled(source, source_value)
        R = (self.weight(source, target, lag) * y).sigmoid()
        return torch.where(self.counts(R), R, 0)

    def counts(self, R: Float[Tensor, "*p"]) -> Bool[Tensor, "*p"]:
        """`2R - 1 > tau`: sigma(0) = 0.5, so a test on R alone would accept every pair."""
        return self.tau < 2 * R - 1

    @torch.no_grad()
    def refresh(self, source: Int[Tensor, "F m"], lag: Int[Tensor, "F m"]) -> None:
        """Take these as candidates (EMPTY where there is none); pairs held already keep their slot and weight."""
        lag = torch.where(source == EMPTY, 1, lag)
        held = self.source * self.window + self.lag - 1
        wanted = source * self.window + lag - 1
        same = (held.unsqueeze(2) == wanted.unsqueeze(1)) & (source != EMPTY).unsqueeze(1)
        stays, known = same.any(2), same.any(1)
        # What is new goes, in order, to the slots that are left.
        fresh = ((source == EMPTY) | known).to(torch.int8).sort(dim=1, stable=True).indices
        place = (~stays).cumsum(1) - 1
        new = torch.where(~known, source, EMPTY).gather(1, fresh).gather(1, place.clamp(min=0))
        new_lag = lag.gather(1, fresh).gather(1, place.clamp(min=0))
        self.source.copy_(torch.where(stays, self.source, new))
        self.lag.copy_(torch.where(stays, self.lag, torch.where(new == EMPTY, 1, new_lag)))
        self.values.mul_(stays)


def predict(head: PredictionHead, seen: History, targets: Int[Tensor, "n q"]) -> Float[Tensor, "n q"]:
    """Log-odds that each target feature fires at each token, given its past."""
    y = head.scaled(seen.past_features, seen.past_values)
    fast = head.lookup(targets, seen.past_features, y)
    if fast is not None:
        return fast
    logits = head.b[targets] + head.drive(targets, seen.past_features, y)
    if head.dense:
        return logits
    hit = candidate_hits(head, seen, targets)
    strength = head.values[hit.target, hit.entry] * y.flatten(1)[hit.token, hit.place]
    return logits.index_put((hit.token, hit.column), strength, accumulate=True)


class Hits(NamedTuple):
    """Candidate entries whose source fired: entry `entry` of the feature in `column` of a token's targets."""

    token: Int[Tensor, " h"]
    column: Int[Tensor, " h"]
    target: Int[Tensor, " h"]
    entry: Int[Tensor, " h"]
    place: Int[Tensor, " h"]
    """(lag - 1) * k + slot of the source in the token's past."""


def candidate_hits(head: PredictionHead, seen: History, targets: Int[Tensor, "n q"]) -> Hits:
    """Look every entry of every target up in the token's past: O(n q m), of which few pass a table of hashes."""
    F, m = head.source.shape
    n, w, k = seen.past_features.shape
    active = (seen.past_values != 0).flatten(1)
    keys = (torch.arange(w, device=targets.device).unsqueeze(-1) * F + seen.past_features).flatten(1)
    entry_keys = (head.lag - 1) * F + head.source
    # Column `size` takes what didn't fire; the one after it, which stays False, is where free entries look.
    size = 1 << (16 * w * k - 1).bit_length()
    fired = torch.zeros(n, size + 2, dtype=torch.bool, device=targets.device)
    fired.scatter_(1, torch.where(active, _hash(keys, size), size), True)
    look = torch.where(head.source == EMPTY, size + 1, _hash(entry_keys, size))
    token, flat = fired.gather(1, look[targets].flatten(1)).nonzero(as_tuple=True)
    column, entry = flat // m, flat % m
    target = targets[token, column]

    at, place = active.nonzero(as_tuple=True)
    ordered, order = (at * (w * F) + keys[at, place]).sort()
    wanted = token * (w * F) + entry_keys[target, entry]
    found = torch.searchsorted(ordered, wanted).clamp_(max=max(len(ordered) - 1, 0))
    hit = ordered[found] == wanted
    return Hits(token[hit], column[hit], target[hit], entry[hit], place[order[found[hit]]])


def _hash(keys: Int[Tensor, "*n"], size: int) -> Int[Tensor, "*n"]:
    """Keys spread over 0..size - 1, `size` a power of two."""
    return (keys * 0x9E3779B1 >> 15) & (size - 1)
