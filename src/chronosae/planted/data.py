"""Planted activations with everything that is true about them; in batches, endless for training, finite for scoring.

Shapes: batch sequences, pos positions, F planted features (`features` in shape names).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import SparseCodes
from chronosae.planted.sample import Edge, Samples, plant, sample
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


Shuffle = Literal["none", "within", "all"]
"""`none`: sequences as they are. `within`: the tokens of each sequence in random order. `all`: the tokens of all
sequences in random order. Both are controls: what time tells is destroyed, in the second even what a sequence tells."""

HELDOUT_FIRST = 2**32
"""Number of the first held-out sequence, beyond any pool: a seed may be shared by training and held-out data."""


class PlantedStream:
    """Batches for training (`training.Stream`), one site.

    A pool of sequences is generated once; every epoch serves it in a new order, which depends on (seed, epoch) only, so
    the state is one number. With `all`, tokens are exchanged over the whole pool, anew each epoch. What is left of a
    pool that `batch_sequences` does not divide is served in no batch of that epoch.

    Args:
        batch_sequences: sequences in a batch.
        pool_sequences: sequences generated; 2,048 of `persistent` take 50 MiB.
        site: key of the batches.
    """

    def __init__(
        self,
        spec: PlantedSpec,
        batch_sequences: int,
        seed: int,
        shuffle: Shuffle = "none",
        site: str = "planted",
        pool_sequences: int = 2048,
    ) -> None:
        if not 1 <= batch_sequences <= pool_sequences:
            raise ValueError(f"a batch of {batch_sequences} sequences from a pool of {pool_sequences}")
        self.spec, self.batch_sequences, self.seed, self.site = spec, batch_sequences, seed, site
        self.shuffle: Shuffle = shuffle
        self._pool = generate(spec, pool_sequences, seed).batch()
        self._steps_per_epoch = pool_sequences // batch_sequences
        self._step = 0
        self._epoch, self._order = -1, torch.empty(0, 0, dtype=torch.int64)

    def next(self) -> dict[str, SequenceBatch]:
        """The next batch."""
        epoch, step = divmod(self._step, self._steps_per_epoch)
        if epoch != self._epoch:
            self._order = token_order(self._pool.n_sequences, self.spec.pos, self.shuffle, self.seed, epoch)
            self._epoch = epoch
        order = self._order[step * self.batch_sequences : (step + 1) * self.batch_sequences]
        self._step += 1
        return {self.site: self._gather(order)}

    def state_dict(self) -> dict[str, Any]:
        """Batches served so far."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches counted in `state`."""
        self._step = state["step"]

    def _gather(self, order: Int[Tensor, "batch pos"]) -> SequenceBatch:
        pool = self._pool
        # Documents keep their places when tokens are exchanged: those of the sequence that the order names first.
        places = torch.div(order[:, 0], self.spec.pos, rounding_mode="floor")
        return SequenceBatch(
            acts=pool.acts.flatten(0, 1)[order],
            mask=pool.mask[places],
            tokens=pool.tokens[places],
            positions=pool.positions[places],
            doc_ids=pool.doc_ids[places],
            source=pool.source[: len(order)],
        )


def token_order(n_sequences: int, pos: int, shuffle: Shuffle, seed: int, epoch: int) -> Int[Tensor, "sequences pos"]:
    """Which token (counted through the data) stands at each place in this epoch; depends on the arguments only."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,))))
    tokens = rng.permutation(n_sequences)[:, None] * pos + np.arange(pos)
    if shuffle == "within":
        tokens = rng.permuted(tokens, axis=1)
    elif shuffle == "all":
        tokens = rng.permutation(tokens.ravel()).reshape(tokens.shape)
    return torch.from_numpy(tokens)


def batches(
    spec: PlantedSpec, n_sequences: int, seed: int, batch_sequences: int, shuffle: Shuffle = "none"
) -> Iterator[Planted]:
    """Held-out sequences in order, with their ground truth (shuffled alike); the last batch may be smaller.

    No seed makes them sequences of a `PlantedStream`. With `all`, tokens are exchanged over all `n_sequences`.

    Raises:
        ValueError: a count below 1, or a negative seed.
    """
    if batch_sequences < 1:
        raise ValueError(f"batch_sequences must be at least 1, not {batch_sequences}")
    data = generate(spec, n_sequences, seed, first=HELDOUT_FIRST)
    if shuffle != "none":
        # Sequences are exchanged too, which moves nothing that matters: documents keep their places.
        data = data.rearranged(token_order(n_sequences, spec.pos, shuffle, seed, epoch=0))
    for start in range(0, n_sequences, batch_sequences):
        yield data.rows(slice(start, start + batch_sequences))
