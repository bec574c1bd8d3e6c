"""Which features tend to fire a few tokens after which others, in bounded memory."""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from chronosae.autoencoders import Codes
from chronosae.autoencoders.parts import Positive
from chronosae.autoencoders.parts.terms import TRACKERS, TrackerSpec
from chronosae.config import UserError
from chronosae.kernels import blank, unknown
from chronosae.objectives.candidates import CHALLENGERS, Candidates
from chronosae.objectives.causal_head import PredictionHead
from chronosae.objectives.history import History, as_slots, history, same_document, sample_tokens
from chronosae.objectives.regressors import RegressorCounts
from chronosae.objectives.sketch import LagMarginals, TripleSketch
from chronosae.objectives.term import StepContext
from chronosae.objectives.tracker import TensorState

Interaction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(source, target, lag, source's activation, target's activation), flat and equally long -> R of each, in [0, 1]."""

TABLE_BYTES = 2**25
"""Workspace per piece of a batch; the pieces are as large as it allows."""


@TRACKERS.add
class CorrelationTracker(TrackerSpec):
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

    def make(self, d_sae: int, seed: int = 0, device: torch.device | str = "cpu") -> "TemporalCorrelationTracker":
        return TemporalCorrelationTracker(
            d_sae, self.window, self.entries, self.alpha, self.sample_tokens, seed=seed, device=device
        )

    def show(self, tracker: "TemporalCorrelationTracker", step: StepContext) -> None:
        layout = step.layout("correlation tracker")
        head = step.head("causal_prediction")
        interaction = head.interaction if isinstance(head, PredictionHead) else None
        # Candidates are chosen on the first half and measured on the second: the same tokens would flatter them.
        if step.progress >= 0.5 and not tracker.measuring:
            tracker.measure()
        tracker.update(
            step.forward.codes.detach(), layout.mask, layout.doc_ids, step=step.draws.step, interaction=interaction
        )


class TemporalCorrelationTracker(TensorState):
    """Candidate edges (source j, lag l) of every target i, l = 1..window, with what is needed to weigh them.

    Per update, on a sample of tokens: exact marginals; approximate counts of all co-active triples (`TripleSketch`);
    exact counts for the `entries` most surprising triples of each target, which enter and leave by z (`Candidates`);
    and, after `measure()`, how often the candidates then held fire together (`RegressorCounts`), on which
    `chronosae.analysis` regresses. Choosing candidates and measuring them on later tokens keeps the choice honest.
    No pair crosses a document or a sequence. Memory is O(F entries^2) and a sketch of at most 2^24 cells.

    C, the original baseline, is the exponential average of interactions R of held triples: one update a step with the
    mean over the step's co-active pairs, C <- (1 - alpha) C + alpha R; a triple absent from a step counts as R = 0,
    applied when it is next seen or read.

    Args:
        d_sae: number of features F.
        window: lags, at least 1.
        entries: candidates a target.
        alpha: weight of the newest step in C.
        sample_tokens: target tokens looked at per update, drawn without replacement and with equal chances from the
            unmasked ones by (seed, step); None: all.
        half_life: tokens looked at after which counts are halved, so that a changing autoencoder's past fades; at most
            2^23, which keeps float32 counts exact.
        max_active: active features a token contributes at most (its largest).
        cells: of the sketch, a power of two; default: one a triple, at most 2^24.
        seed: of the token sample.

    Raises:
        UserError: a window, number of entries, sample or half-life below 1, or alpha outside (0, 1].
    """

    _tensors = ("tokens_sampled", "tokens_seen", "tokens_since_halving", "measuring", "last_step")
    _parts: ClassVar[Mapping[str, str]] = {
        "marginals": "marginals",
        "sketch": "sketch",
        "candidates": "candidates",
        "regressors": "moments",  # their name in saved files
    }

    def __init__(
        self,
        d_sae: int,
        window: int = 4,
        entries: int = 32,
        alpha: float = 0.02,
        sample_tokens: int | None = 128,
        *,
        half_life: int = 2**22,
        max_active: int = 256,
        cells: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(d_sae, window, entries, alpha, sample_tokens, half_life)
        self.d_sae, self.window, self.alpha, self.seed = d_sae, window, alpha, seed
        self.sample_tokens, self.half_life, self.max_active = sample_tokens, half_life, max_active
        self.marginals = LagMarginals(d_sae, window, device)
        self.sketch = TripleSketch(d_sae, window, cells or _cells(d_sae, window), device)
        self.candidates = Candidates(d_sae, entries, device)
        self.regressors = RegressorCounts(d_sae, window, entries, device)
        counters = ("tokens_sampled", "tokens_seen", "tokens_since_halving", "last_step")
        for name in counters:
            setattr(self, name, torch.zeros((), dtype=torch.int64, device=device))
        self.measuring = torch.zeros((), dtype=torch.bool, device=device)

    tokens_sampled: Tensor
    """Target tokens looked at so far."""
    tokens_seen: Tensor
    """Unmasked tokens they were drawn from."""
    tokens_since_halving: Tensor
    last_step: Tensor

    @torch.no_grad()
    def update(
        self,
        codes: Codes,
        mask: Bool[Tensor, "batch pos"] | None = None,
        doc_ids: Int[Tensor, "batch pos"] | None = None,
        *,
        step: int,
        interaction: Interaction | None = None,
    ) -> None:
        """Account for one batch `[batch, pos, ...]` of optimiser step `step`; all unmasked, one document by default.

        Args:
            interaction: R of co-active pairs, for C; None leaves C to decay.
        """
        slots = as_slots(codes, self.max_active)
        if mask is None:
            mask = torch.ones(slots.values.shape[:2], dtype=torch.bool, device=slots.values.device)
        valid = same_document(mask, doc_ids, self.window)
        tokens = sample_tokens(mask, self.sample_tokens, self.seed, step)
        self._forget(len(tokens))
        self.tokens_seen += mask.sum()
        self.tokens_sampled += len(tokens)
        self.last_step.fill_(step)
        seen = history(slots, valid, tokens)
        self._count(seen, step, interaction)
        self._screen(seen)

    def measure(self) -> None:
        """Fix the candidates held now as regressors and count them from the next update on, from zero.

        Screening goes on beside it; call again for a fresh set.
        """
        self.regressors.start(self.candidates.source, self.candidates.lag)
        self.measuring.fill_(True)

    def interactions(self, step: int | None = None) -> Float[Tensor, "F m"]:
        """C of every held triple as of `step` (default: the last update's)."""
        now = self.last_step if step is None else step
        return self.candidates.interaction * (1 - self.alpha) ** (now - self.candidates.interaction_step)

    def _count(self, seen: History, step: int, interaction: Interaction | None) -> None:
        held, places, found = self.candidates, [], []
        self.marginals.add(seen)
        if self.measuring:
            self.regressors.add(seen)
        for piece in seen.pieces(self._piece_size(seen)):
            target, slot, lag, source_value, target_value = held.co_active(piece)
            place = target * held.count.shape[1] + slot
            held.count.view(-1).index_add_(0, place, torch.ones_like(place, dtype=held.count.dtype))
            if interaction is not None:
                places.append(place)
                found.append(interaction(held.source[target, slot], target, lag, source_value, target_value))
        if places:
            self._average(torch.cat(places), torch.cat(found).to(held.interaction.dtype), step)

    def _average(self, place: Int[Tensor, " p"], R: Float[Tensor, " p"], step: int) -> None:
        """One update of C at these places in [F, m], with the mean of the R of each."""
        held = self.candidates
        C, last = held.interaction.view(-1), held.interaction_step.view(-1)
        place, which = place.unique(return_inverse=True)
        total, pairs = R.new_zeros(len(place)).index_add_(0, which, R), torch.bincount(which, minlength=len(place))
        C[place] = C[place] * (1 - self.alpha) ** (step - last[place]) + self.alpha * total / pairs
        last[place] = step

    def _screen(self, seen: History) -> None:
        standing = unknown(self.candidates.source)
        best = blank((self.d_sae, CHALLENGERS), -1, torch.int64, seen.valid.device)
        for piece in seen.pieces(self._piece_size(seen)):
            self.candidates.challenge(best, piece, self.sketch, self.marginals, standing)
        self.candidates.admit(best, self.marginals, self.sketch, standing)
        self.sketch.forget()

    def _piece_size(self, seen: History) -> int:
        """Few enough tokens at a time that tables [n, w, F] and [n, w, k, k] stay small."""
        per_token = max(4 * self.d_sae, 64 * seen.values.shape[1] ** 2) * self.window
        return max(TABLE_BYTES // per_token, 1)

    def _forget(self, coming: int) -> None:
        self.tokens_since_halving += coming
        if self.tokens_since_halving > self.half_life:
            for part in (self.marginals, self.sketch, self.candidates, self.regressors):
                part.halve()
            self.tokens_since_halving.fill_(coming)


def _cells(d_sae: int, window: int) -> int:
    return 2 ** min(max((window * d_sae * d_sae - 1).bit_length(), 10), 24)


def _check(d_sae: int, window: int, entries: int, alpha: float, sample_tokens: int | None, half_life: int) -> None:
    smallest = min(d_sae, window, entries, half_life, 1 if sample_tokens is None else sample_tokens)
    if smallest < 1:
        raise UserError(
            f"the correlation tracker needs d_sae, window, entries, sample_tokens and half_life of at least 1; got"
            f" {d_sae}, {window}, {entries}, {sample_tokens}, {half_life}"
        )
    if half_life > 2**23:
        raise UserError(f"half_life is at most {2**23} tokens, so that float32 counts stay exact; got {half_life}")
    if not 0 < alpha <= 1:
        raise UserError(f"the correlation tracker's alpha lies in (0, 1]; got {alpha}")
