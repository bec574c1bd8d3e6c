"""Planted data in batches: endless for training, finite with its ground truth for scoring."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.planted.generate import Planted, generate
from chronosae.planted.spec import PlantedSpec

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

    Arguments:
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
