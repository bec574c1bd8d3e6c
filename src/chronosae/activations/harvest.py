"""Token sequences -> activations at every site, in one truncated forward pass, and the live stream made of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch

from chronosae.activations.batch import SequenceBatch
from chronosae.activations.sequences import Sequences, TokenBatch
from chronosae.config import UserError
from chronosae.subject import Subject

SiteBatches = dict[str, SequenceBatch]
"""One batch a site; all share tokens, mask, positions and document ids."""


@runtime_checkable
class ActivationStream(Protocol):
    """An endless, resumable stream of training batches."""

    def next(self) -> SiteBatches:
        """The next `batch_sequences` sequences at every site."""
        ...

    @property
    def epochs(self) -> float:
        """Passes over the most repeated source so far."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The place, exact to the next batch; tensors and plain data that `torch.load(weights_only=True)` accepts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told."""
        ...


def harvest(subject: Subject, tokens: TokenBatch, sites: Sequence[str]) -> SiteBatches:
    """Activations (float32, on the subject's device) of whole contexts at every site; masked tokens included, raw.

    Raises:
        UserError: a token is outside the subject's vocabulary.
    """
    top = int(tokens.tokens.max())
    if top >= subject.vocab_size:
        raise UserError(
            f"subject.tokenizer makes token {top}, but {subject.name} knows only {subject.vocab_size};"
            " use the model's own tokenizer"
        )
    device = subject.device
    ids = tokens.tokens.to(device)
    acts = subject.activations(ids, list(sites), dtype=torch.float32)
    mask = tokens.mask.to(device)
    shared = {"tokens": ids, "mask": mask, "positions": tokens.positions.to(device)}
    doc_ids = tokens.doc_ids.to(device)
    batches: SiteBatches = {}
    for site in sites:
        batches[site] = SequenceBatch(acts=acts[site], doc_ids=doc_ids, source=tokens.source, **shared)
    return batches


def require_finite(batches: SiteBatches, subject: Subject) -> SiteBatches:
    """The same batches; `UserError` that names site and source when an activation is NaN or infinite.

    For what is kept or evaluated. The training stream hands such batches on: the trainer stops the autoencoders of that
    site and lets the others go on.
    """
    for site, batch in batches.items():
        # One cheap reduction in the usual case: a sum of finite numbers of sane size is finite.
        if torch.isfinite(batch.acts.sum()):
            continue
        bad = ~torch.isfinite(batch.acts).flatten(1).all(1)
        if bad.any():
            names = ", ".join(sorted({n for n, is_bad in zip(batch.source, bad.tolist(), strict=True) if is_bad}))
            raise UserError(
                f"activations at {site} are NaN or infinite in {int(bad.sum())} of {len(bad)} sequences (source:"
                f" {names}); {subject.name} runs in {subject.dtype}: try --set subject.dtype=float32, or drop that text"
            )
    return batches


def rows(batches: SiteBatches, which: slice) -> SiteBatches:
    """Some sequences of every site's batch; views, nothing is copied."""
    return {
        site: replace(
            batch,
            **{name: getattr(batch, name)[which] for name in ("acts", "mask", "tokens", "positions", "doc_ids")},
            source=batch.source[which],
        )
        for site, batch in batches.items()
    }


def join(parts: Sequence[SiteBatches]) -> SiteBatches:
    """Batches end to end."""
    if len(parts) == 1:
        return parts[0]
    names = ("acts", "mask", "tokens", "positions", "doc_ids")
    return {
        site: SequenceBatch(
            **{name: torch.cat([getattr(part[site], name) for part in parts]) for name in names},
            source=sum((part[site].source for part in parts), ()),
        )
        for site in parts[0]
    }


class LiveStream:
    """Harvests as training goes: the subject reads `harvest_sequences` at a time, always in the same shape.

    Batches are cut from these chunks in order. The state holds the tokens of a chunk that is only partly handed out;
    restoring reads the whole chunk again, so the rest comes out bit-equal.

    Args:
        sequences: an endless source of contexts.
        subject: the language model.
        sites: hook points to read.
        batch_sequences: sequences a batch.
        harvest_sequences: sequences a forward pass.
    """

    def __init__(
        self,
        sequences: Sequences,
        subject: Subject,
        sites: Sequence[str],
        *,
        batch_sequences: int,
        harvest_sequences: int,
    ) -> None:
        self._sequences, self._subject, self._sites = sequences, subject, list(sites)
        self._batch, self._chunk_size = batch_sequences, harvest_sequences
        self._tokens: TokenBatch | None = None
        self._chunk: SiteBatches = {}
        self._offset = 0

    def next(self) -> SiteBatches:
        """The next `batch_sequences` sequences at every site."""
        parts: list[SiteBatches] = []
        wanted = self._batch
        while wanted:
            if self._tokens is None:
                self._tokens = self._sequences.take(self._chunk_size)
                assert len(self._tokens) == self._chunk_size, "a training stream never ends"
                self._offset = 0
            if not self._chunk:
                self._chunk = harvest(self._subject, self._tokens, self._sites)
            part = slice(self._offset, min(self._offset + wanted, self._chunk_size))
            parts.append(rows(self._chunk, part))
            wanted -= part.stop - part.start
            self._offset = part.stop
            if self._offset == self._chunk_size:
                self._tokens, self._chunk = None, {}
        return join(parts)

    @property
    def epochs(self) -> float:
        """Passes over the most repeated source so far, what waits in the shuffle window included."""
        return max(self._sequences.mixture.epochs)

    def bookmark(self) -> Callable[[], dict[str, Any]]:
        """The place now; the result makes its `state_dict`, now or when the stream has gone on."""
        sequences, tokens, offset = self._sequences.bookmark(), self._tokens, self._offset

        def state() -> dict[str, Any]:
            chunk: dict[str, Any] | None = None
            if tokens is not None:
                chunk = {name: getattr(tokens, name).clone() for name in ("tokens", "doc_ids", "mask")}
                chunk |= {"source": list(tokens.source), "offset": offset}
            return {"sequences": sequences(), "chunk": chunk}

        return state

    def state_dict(self) -> dict[str, Any]:
        """The place: token contexts that wait, the place in every source, the chunk in hand."""
        return self.bookmark()()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told; the chunk in hand is harvested again at the next batch.

        Raises:
            UserError: the state comes from another kind of store, other sources or other sizes.
        """
        if "sequences" not in state:
            raise UserError("saved data order comes from a cache; set activations.store=cache to go on from it")
        chunk = state["chunk"]
        if chunk is not None and len(chunk["source"]) != self._chunk_size:
            raise UserError(
                f"saved data order was harvested {len(chunk['source'])} sequences at a time; set"
                f" activations.harvest_sequences={len(chunk['source'])} to go on from it"
            )
        self._sequences.load_state_dict(state["sequences"])
        self._tokens, self._chunk, self._offset = None, {}, 0
        if chunk is not None:
            fields = {name: chunk[name].cpu() for name in ("tokens", "doc_ids", "mask")}
            self._tokens = TokenBatch(**fields, source=tuple(chunk["source"]))
            self._offset = chunk["offset"]
