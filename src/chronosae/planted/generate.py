"""`generate`: planted activations with everything that is true about them.

Shapes: batch sequences, pos positions, F planted features (`features` in shape names).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import SparseCodes
from chronosae.planted.ground import Edge, plant
from chronosae.planted.sample import Samples, sample
from chronosae.planted.spec import PlantedSpec


@dataclass(frozen=True)
class Planted:
    """Activations and their ground truth. `edges` hold (source, target, lag); `kind` names every feature's group."""

    acts: Float[Tensor, "batch pos d_in"]
    codes: SparseCodes
    dictionary: Float[Tensor, "features d_in"]
    edges: tuple[Edge, ...]
    kind: tuple[str, ...]
    profile: Bool[Tensor, "features pos"]
    """Positions where a feature may fire: all, but for features with a band."""
    mask: Bool[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    doc_ids: Int[Tensor, "batch pos"]
    """Number of the document within its sequence."""

    def features(self, *kinds: str) -> Int[Tensor, " chosen"]:
        """Numbers of the features of these kinds, ascending; ValueError for a kind that isn't there."""
        if missing := set(kinds) - set(self.kind):
            raise ValueError(
                f"no planted feature is {sorted(missing)[0]!r}; kinds: {', '.join(sorted(set(self.kind)))}"
            )
        return torch.tensor([number for number, kind in enumerate(self.kind) if kind in kinds], dtype=torch.int64)

    def mean_l0(self) -> float:
        """Mean number of planted features active at a token: the k of a matched TopK."""
        return float(self.codes.l0()[self.mask].double().mean())

    def batch(self) -> SequenceBatch:
        """What an autoencoder sees."""
        return _sequence_batch(self.acts, self.mask, self.positions, self.doc_ids)

    def rows(self, chosen: slice) -> "Planted":
        """A slice of the sequences."""
        codes = replace(self.codes, values=self.codes.values[chosen], indices=self.codes.indices[chosen])
        return replace(
            self,
            acts=self.acts[chosen],
            codes=codes,
            mask=self.mask[chosen],
            positions=self.positions[chosen],
            doc_ids=self.doc_ids[chosen],
        )

    def rearranged(self, order: Int[Tensor, "batch pos"]) -> "Planted":
        """Activations and codes of token `order[b, p]` (counted through the batch) at place (b, p).

        Positions and documents stay where they are: a mixer sees contexts as long as before, with nothing in them.
        """
        flat = order.flatten()
        codes = replace(
            self.codes,
            values=self.codes.values.flatten(0, 1)[flat].view_as(self.codes.values),
            indices=self.codes.indices.flatten(0, 1)[flat].view_as(self.codes.indices),
        )
        return replace(self, acts=self.acts.flatten(0, 1)[flat].view_as(self.acts), codes=codes)


def generate(spec: PlantedSpec, n_sequences: int, seed: int, *, first: int = 0) -> Planted:
    """Sequences number `first` to `first + n_sequences - 1` of the data set (spec, seed), float32, on the CPU.

    A sequence is a pure function of (spec, seed, its number); dictionary, edges and bands are one of the spec.

    Raises:
        ValueError: fewer than one sequence, a negative seed, or edges that don't fit the features.
    """
    if n_sequences < 1 or seed < 0 or first < 0:
        raise ValueError(f"generate: need n_sequences >= 1, seed >= 0, first >= 0; got {n_sequences}, {seed}, {first}")
    ground = plant(spec)
    samples = sample(spec, ground, range(first, first + n_sequences), seed)
    codes = _sparse(samples, spec, n_sequences)
    dictionary = torch.from_numpy(ground.dictionary)
    acts = codes.combine(dictionary)
    if spec.noise:
        acts = acts + spec.noise * torch.from_numpy(samples.noise)
    return Planted(
        acts=acts,
        codes=codes,
        dictionary=dictionary,
        edges=ground.edges,
        kind=spec.kinds,
        profile=torch.from_numpy(ground.profile),
        mask=torch.ones(n_sequences, spec.pos, dtype=torch.bool),
        positions=torch.arange(spec.pos).expand(n_sequences, -1).clone(),
        doc_ids=torch.from_numpy(samples.doc_ids),
    )


def _sparse(samples: Samples, spec: PlantedSpec, n_sequences: int) -> SparseCodes:
    token = samples.sequence * spec.pos + samples.position
    per_token = np.bincount(token, minlength=n_sequences * spec.pos)
    slots = max(int(per_token.max()), 1)
    slot = np.arange(len(token)) - (np.cumsum(per_token) - per_token)[token]
    indices = np.zeros((n_sequences * spec.pos, slots), dtype=np.int64)
    values = np.zeros((n_sequences * spec.pos, slots), dtype=np.float32)
    indices[token, slot], values[token, slot] = samples.feature, samples.value
    shape = (n_sequences, spec.pos, slots)
    return SparseCodes(
        values=torch.from_numpy(values).view(shape),
        scale=None,
        indices=torch.from_numpy(indices).view(shape),
        n_features=spec.n_features,
    )


def _sequence_batch(
    acts: Float[Tensor, "batch pos d_in"],
    mask: Bool[Tensor, "batch pos"],
    positions: Int[Tensor, "batch pos"],
    doc_ids: Int[Tensor, "batch pos"],
) -> SequenceBatch:
    # Planted data has no text; token ids are all 0.
    tokens = torch.zeros_like(positions)
    return SequenceBatch(acts, mask, tokens, positions, doc_ids, ("planted",) * len(acts))
