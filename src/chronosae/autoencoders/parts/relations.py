"""Terms that relate codes over time: which features earlier predict which now, and how strongly they interact.

Shapes: F features, w lags (lag k = 1..w at index k - 1), m candidate entries a target, r rank, n tokens.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from chronosae.autoencoders.parts.base import Positive
from chronosae.autoencoders.parts.terms import TERMS, TermSpec, Weight
from chronosae.autoencoders.parts.watchers import WATCHERS, WatcherSpec
from chronosae.autoencoders.trackers.correlation import TemporalCorrelationTracker
from chronosae.kernels import EntryKeys, Predictor, lagged_logits, sparse_decode, triple_weights, unit_values

DENSE_FEATURES = 4096
"""Features above which a dense F x F matrix a lag is refused."""
EMPTY = -1
"""Source of a free entry."""
KEEP = 0.99
"""Share of the running mean square that a batch leaves."""


@TERMS.add
class CausalPredictionTerm(TermSpec):
    """Logistic prediction of what fires from what fired 1..window tokens before (DESIGN 5.C); codes are detached.

    `P(z_{t,i} > 0) = sigma(b_i + sum_k sum_j W^(k)_ij y_{t-k,j})`, y = z / RMS of z where it is active. The term is
    the negative log-likelihood in nats, summed over features, mean over tokens, estimated without bias from sampled
    tokens and sampled inactive features.
    """

    kind: Literal["causal_prediction"] = "causal_prediction"
    weight: Weight = 0.1
    window: Positive = 4
    """Lags looked back at."""
    rank: Positive = 16
    """Rank of each lag's low-rank part."""
    entries: Positive = 32
    """Candidate pairs (source, lag) that each target has a weight of its own for; filled by the correlation tracker."""
    refresh_every: Positive = 100
    """Steps between looks at the tracker's candidates; pairs that stay keep their weights."""
    dense: bool = False
    """A full matrix a lag instead of low rank plus candidates; refused above 4,096 features."""
    negatives: Positive = 64
    """Inactive features drawn a sequence, which all of its tokens share; each counts for F / negatives."""
    sample_tokens: Positive | None = 256
    """Target tokens a step; None: all."""
    tau: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """An interaction R counts when 2R - 1 exceeds this (the original logs also tried 0.15)."""
    lr_multiplier: Annotated[float, Field(gt=0)] = 10.0
    """Of the learning rate: log-odds are of order 1, far from where an encoder's weights start."""

    def check(self, d_sae: int) -> None:
        """ValueError when the matrices of `dense` would be too large."""
        if self.dense and d_sae > DENSE_FEATURES:
            raise ValueError(
                f"a dense causal_prediction has F x F weights a lag, allowed to F = {DENSE_FEATURES}; got {d_sae}"
                " (use dense: false, low rank plus candidate pairs)"
            )

    def check_spec(self, spec: Any) -> None:
        self.check(spec.d_sae)

    def make_head(self, d_in: int, d_sae: int) -> nn.Module:
        return PredictionHead(self, d_sae)


@TERMS.add
class CorrelationTerm(TermSpec):
    """RMS of `2R - 1` over sampled co-active pairs of different features: keeps interactions few (DESIGN 5.C).

    Needs the causal_prediction term, whose W it shares; gradients reach codes and W of the current step only.
    """

    per_energy: ClassVar[bool] = True
    kind: Literal["correlation"] = "correlation"
    weight: Weight = 0.1
    sample_tokens: Positive | None = 128
    """Target tokens a step; None: all."""

    def check_spec(self, spec: Any) -> None:
        if not any(term.kind == "causal_prediction" for term in spec.terms):
            raise ValueError("the correlation term needs the causal_prediction term, whose W it shares; add both")


@WATCHERS.add
class CorrelationWatcher(WatcherSpec):
    """Co-activation over lags 1..window in bounded memory, and C, the running mean of interactions (DESIGN 5.C)."""

    kind: Literal["correlation"] = "correlation"
    window: Positive = 4
    """Lags."""
    entries: Positive = 32
    """Candidate edges (source, lag) of each feature."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of the newest step in C."""
    sample_tokens: Positive | None = 128
    """Target tokens a step; None: all."""

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> TemporalCorrelationTracker:
        """The tracker, empty."""
        return TemporalCorrelationTracker(
            d_sae, self.window, self.entries, self.alpha, self.sample_tokens, seed=seed, device=device
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

    def __init__(self, cfg: CausalPredictionTerm, d_sae: int) -> None:
        super().__init__()
        cfg.check(d_sae)
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


__all__ = ["DENSE_FEATURES", "EMPTY", "CausalPredictionTerm", "CorrelationTerm", "CorrelationWatcher", "PredictionHead"]
