"""The sources each target keeps an exact counter for: m slots a target, chosen by surprise.

Slots are won and lost by z = (c - e) / sqrt(e + 1), never by raw count, which keeps frequent features instead of
informative ones. From admission on, c is exact and e grows as (n_j now - n_j at admission) p_i; until they rest on as
many tokens, what the sketch had seen before is added. Shapes: F targets, m slots.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chronosae.kernels import Held, Standing, admit, challenge, held_hits
from chronosae.objectives.history import EMPTY, History
from chronosae.objectives.sketch import LagMarginals, Triples, TripleSketch, surprise
from chronosae.objectives.tracker import TensorState

CHALLENGERS = 8
"""Triples that may enter a target's slots in one update."""
MIN_COUNT = 2
"""Occurrences below which a triple is not worth a slot."""


class Candidates(TensorState):
    """`source [F, m]` (EMPTY where free) and `lag [F, m]`, with counters, and C, the average of interactions."""

    _tensors = (
        "source",
        "lag",
        "count",
        "source_before",
        "prior_count",
        "prior_expected",
        "interaction",
        "interaction_step",
    )

    def __init__(self, d_sae: int, slots: int, device: torch.device | str = "cpu") -> None:
        shape = (d_sae, slots)
        self.source = torch.full(shape, EMPTY, dtype=torch.int64, device=device)
        self.lag = torch.ones(shape, dtype=torch.int64, device=device)
        self.count = torch.zeros(shape, device=device)
        self.source_before = torch.zeros(shape, dtype=torch.float64, device=device)
        self.prior_count = torch.zeros(shape, device=device)
        self.prior_expected = torch.zeros(shape, device=device)
        self.interaction = torch.zeros(shape, device=device)
        self.interaction_step = torch.zeros(shape, dtype=torch.int64, device=device)

    def expected(self, marginals: LagMarginals, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows m"]:
        """Co-activations independent features would have had since admission, for these targets."""
        source, lag = self.source[rows].clamp(min=0), self.lag[rows]
        since = marginals.source[lag - 1, source] - self.source_before[rows]
        return since * marginals.rate(rows[:, None].expand_as(lag), lag)

    def surprise(self, marginals: LagMarginals, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows m"]:
        """z of every slot of these targets; minus infinity where a slot is free."""
        own = self.expected(marginals, rows)
        # The sketch's word, inflated by collisions, fades as the exact count comes to rest on as many tokens.
        trust = (1 - own / self.prior_expected[rows].clamp(min=1e-12)).clamp(0, 1)
        count = self.count[rows].double() + trust * self.prior_count[rows]
        z = surprise(count, own + trust * self.prior_expected[rows])
        return z.masked_fill(self.source[rows] == EMPTY, -torch.inf)

    def co_active(self, seen: History) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Occurrences of held triples: (target, slot, lag, value of the source, value of the target), one each."""
        hits = held_hits(seen.firings(), self.source, self.lag)
        if hits is not None:
            token, now, slot, past = hits
            target = seen.features[token, now]
            lag = self.lag[target, slot]
            return target, slot, lag, seen.past_values[token, lag - 1, past], seen.values[token, now]
        token, now = torch.nonzero(seen.values, as_tuple=True)
        target = seen.features[token, now]
        n, w = seen.valid.shape
        # What fired before each token, as a table to look candidates up in: [n, w, F].
        fired = torch.zeros(n, w, len(self.source), dtype=seen.values.dtype, device=seen.values.device)
        active = seen.past_values != 0
        t, lag, past = torch.nonzero(active, as_tuple=True)
        fired[t, lag, seen.past_features[t, lag, past]] = seen.past_values[t, lag, past]
        held = self.source[target]
        value = fired[token[:, None], self.lag[target] - 1, held.clamp(min=0)]
        event, slot = torch.nonzero((value != 0) & (held != EMPTY), as_tuple=True)
        at = target[event]
        return at, slot, self.lag[at, slot], value[event, slot], seen.values[token, now][event]

    def challenge(
        self,
        best: Int[Tensor, "F c"],
        seen: History,
        sketch: TripleSketch,
        marginals: LagMarginals,
        standing: Standing,
    ) -> None:
        """Count the triples of these targets, and write into `best` those that beat their target's worst slot.

        One a bucket, the most surprising first: an entry packs z (as the bits of a positive float32, which order like
        the number) above source and lag. `standing` of the targets that get challenged becomes known.
        """
        triples, after = sketch.count_all(seen)
        if triples is None:
            held = self.held(), marginals.counted()
            return challenge(seen.firings(), after, sketch.judged(MIN_COUNT), held, standing, best)
        self._ask(standing, seen, marginals)
        return self._challenge(best, triples, sketch.estimate(after), sketch, standing.worst)

    def _ask(self, standing: Standing, seen: History, marginals: LagMarginals) -> None:
        targets = seen.features[seen.values != 0].unique()
        z = self.surprise(marginals, targets).to(standing.z.dtype)
        standing.z[targets], standing.worst[targets] = z, z.amin(1)

    def _challenge(
        self, best: Int[Tensor, "F c"], triples: Triples, count: Tensor, sketch: TripleSketch, worst: Tensor
    ) -> None:
        often = (count >= MIN_COUNT) & (triples.source != triples.target)
        triples, count = triples[often], count[often]
        z = surprise(count, sketch.expected(triples)).float()
        keep = z > worst[triples.target].clamp(min=0)
        triples, z = triples[keep], z[keep]
        same_source = self.source[triples.target] == triples.source[:, None]
        new = ~(same_source & (self.lag[triples.target] == triples.lag[:, None])).any(1)
        triples, z = triples[new], z[new]
        code = triples.source * sketch.window + triples.lag - 1
        packed = (z.view(torch.int32).long() << 32) | code
        bucket = triples.target * best.shape[1] + (code * 40503 >> 4) % best.shape[1]
        best.view(-1).scatter_reduce_(0, bucket, packed, "amax")

    def held(self) -> Held:
        """What is held, as kernels take it."""
        counters = self.count, self.source_before, self.prior_count, self.prior_expected
        return Held(self.source, self.lag, *counters)

    def admit(
        self, best: Int[Tensor, "F c"], marginals: LagMarginals, sketch: TripleSketch, standing: Standing
    ) -> None:
        """Give each challenged target's slots to the most surprising of what it holds and its challengers.

        What stays keeps its slot; newcomers take the others, both in order.
        """
        averages = self.interaction, self.interaction_step
        held = self.held(), marginals.counted()
        if admit(best, sketch.hashing, sketch.counts, sketch.judged(MIN_COUNT), held, standing, averages):
            return
        rows = torch.nonzero((best >= 0).any(1)).squeeze(1)
        packed = best[rows]
        code = packed.clamp(min=0) & 0xFFFFFFFF
        source, lag = code // sketch.window, code % sketch.window + 1
        target = rows[:, None].expand_as(source)
        entrants = Triples(target.flatten(), source.flatten(), lag.flatten())
        count, expected = (each(entrants).view_as(source).float() for each in (sketch.count, sketch.expected))
        z = surprise(count.double(), expected.double()).masked_fill(packed < 0, -torch.inf)
        entering = {
            "source": source,
            "lag": lag,
            "source_before": marginals.source[lag - 1, source],
            "prior_count": count,
            "prior_expected": expected,
        }
        stays, place = _slots_for(standing.z[rows], z)
        for name in self._tensors:
            tensor = getattr(self, name)
            new = entering.get(name, torch.zeros_like(source)).to(tensor.dtype)
            tensor[rows] = torch.where(stays, tensor[rows], new.gather(1, place))

    def halve(self) -> None:
        """Forget half of what was counted."""
        for name in ("count", "source_before", "prior_count", "prior_expected"):
            getattr(self, name).mul_(0.5)


def _slots_for(held: Float[Tensor, "n m"], entrants: Float[Tensor, "n c"]) -> tuple[Tensor, Tensor]:
    """Which of the held [n, m] are among the m largest of both, and which entrant would take each slot."""
    m = held.shape[1]
    rank = torch.cat([held, entrants], 1).sort(dim=1, descending=True, stable=True).indices.argsort(1)
    stays, enters = rank[:, :m] < m, rank[:, m:] < m
    in_order = (~enters).to(torch.int8).sort(dim=1, stable=True).indices
    turn = ((~stays).cumsum(1) - 1).clamp(0, entrants.shape[1] - 1)
    return stays, in_order.gather(1, turn)
