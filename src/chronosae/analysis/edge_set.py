"""`EdgeSet`: lagged edges between features."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

STRONG, CANDIDATE = 0.1, 0.05


@dataclass(frozen=True)
class EdgeSet:
    """Edges source(t - lag) -> target(t), strongest first.

    `weight` is about the firing probability the source adds to the target; `t` its t statistic; `support` the tokens on
    which both fired.
    """

    source: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]
    lag: Int[Tensor, " edges"]
    weight: Float[Tensor, " edges"]
    t: Float[Tensor, " edges"]
    support: Int[Tensor, " edges"]
    d_sae: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, chosen: Tensor | slice) -> "EdgeSet":
        """Some of the edges, by mask, index or slice."""
        tensors = {field.name: getattr(self, field.name)[chosen] for field in fields(self) if field.name != "d_sae"}
        return EdgeSet(**tensors, d_sae=self.d_sae)

    def above(self, weight: float) -> "EdgeSet":
        """Edges with more than this weight."""
        return self[self.weight > weight]

    def strongest_first(self) -> "EdgeSet":
        """Sorted by falling weight."""
        return self[self.weight.sort(descending=True, stable=True).indices]

    def best_lags(self) -> "EdgeSet":
        """Of the edges between a source and a target, only the strongest."""
        ordered = self.strongest_first()
        pair = (ordered.source * self.d_sae + ordered.target).tolist()
        place = {key: number for number, key in reversed(list(enumerate(pair)))}
        return ordered[torch.tensor(sorted(place.values()), dtype=torch.int64)]

    def triples(self) -> list[tuple[int, int, int]]:
        """(source, target, lag) of each edge, in order."""
        columns = (self.source.tolist(), self.target.tolist(), self.lag.tolist())
        return [(source, target, lag) for source, target, lag in zip(*columns, strict=True)]

    def share_of_pairs(self) -> float:
        """Ordered pairs of two features that have an edge, as a share of all such pairs."""
        pairs = {(source, target) for source, target, _ in self.triples()}
        return len(pairs) / max(self.d_sae * (self.d_sae - 1), 1)

    def report(self) -> dict[str, int | float]:
        """How many edges there are: strong (w > 0.1) and candidates (w > 0.05), and the share of pairs declared."""
        strong = self.above(STRONG)
        return {
            "strong_edges": len(strong),
            "candidate_edges": len(self.above(CANDIDATE)),
            "strong_share_of_pairs": strong.share_of_pairs(),
        }
