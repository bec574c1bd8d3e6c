"""Where evaluations work: a subject at one site, its activations (computed once), seeded randomness, progress.

Activations of a data set are kept on disk under a name made of everything that decides them: never stale.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder, Codes
from chronosae.config import UserError
from chronosae.evals.texts import TokenRows, token_rows
from chronosae.subject import Subject
from chronosae.version import __version__

# Part of every key: raise it when the numbers that are stored, or their layout, change.
FORMAT = 1
DONE = "complete.json"

Progress = Callable[[str, int, int], None]
"""What is being done, how much is done, how much there is."""

# Positions (padding included) a forward pass of the subject.
PASS_TOKENS = 8192


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


class ActivationCache:
    """Chunks of activations by content. `None` as folder keeps nothing.

    Args:
        folder: where data sets are kept, one folder each; made when first needed.
        keep: largest total size in bytes; a data set that doesn't fit is computed each time.
    """

    def __init__(self, folder: Path | None, keep: int = 20 * 2**30) -> None:
        self.folder, self.keep = folder, keep

    def chunks(
        self, parts: dict[str, Any], count: int, size: int, compute: Callable[[int], Tensor]
    ) -> Iterator[Tensor]:
        """Chunk 0 to `count - 1`: read where they are kept, else computed and kept.

        A data set is used again only when all its chunks were written: an interrupted one is computed anew.

        Args:
            parts: everything that decides the activations; plain data.
            size: bytes of the whole data set.
            compute: the activations of one chunk.
        """
        key = hashlib.sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True).encode()).hexdigest()
        folder = None if self.folder is None else self.folder / key
        if folder is not None and (folder / DONE).is_file():
            for i in range(count):
                kept = _read_chunk(folder / _chunk_file(i))
                yield compute(i) if kept is None else kept
            return
        if folder is None or not self._fits(size):
            yield from (compute(i) for i in range(count))
            return
        # Aside until it is whole: other processes may be at the same data.
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{key[:8]}-"))
        try:
            for i in range(count):
                acts = compute(i)
                save_file({"acts": acts.contiguous().cpu()}, aside / _chunk_file(i))
                yield acts
            facts = json.dumps({"format": FORMAT, **parts}, indent=1, sort_keys=True)
            (aside / DONE).write_text(facts, encoding="utf-8")
            with suppress(OSError):  # another process was first
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _fits(self, size: int) -> bool:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors"))
        return kept + size <= self.keep and size < 0.9 * shutil.disk_usage(self.folder).free


def _chunk_file(index: int) -> str:
    return f"{index:05d}.safetensors"


def _read_chunk(path: Path) -> Tensor | None:
    """None where somebody has removed or damaged it."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("acts")
    except (OSError, SafetensorError):
        return None


def bytes_of(tokens: int, d_in: int, dtype: torch.dtype = torch.float32) -> int:
    """Disk for `tokens` activations of width `d_in`."""
    return tokens * d_in * dtype.itemsize


@dataclass(frozen=True)
class Heldout:
    """The run's text that its autoencoders weren't trained on, at the site."""

    batches: Callable[[int, int], Iterator[SequenceBatch]]
    """Positions wanted (masked ones included), sequences a batch -> batches, the same from the start at every call."""
    text: str = ""
    """Name of the text, for people."""


@dataclass(frozen=True)
class Rows:
    """A batch of texts at the site: `index` says which rows of the `TokenRows` it holds."""

    index: Tensor
    batch: SequenceBatch


@dataclass
class Workbench:
    """Everything an evaluation shares with the others of a run."""

    subject: Subject
    site: str
    seed: int = 0
    """Seed of everything random in the evaluations."""
    cache: ActivationCache = field(default_factory=lambda: ActivationCache(None))
    prepend_bos: bool = True
    exclude_special: bool = True
    """The autoencoders were trained without special tokens and the first position (`activations.exclude_special`)."""
    progress: Progress = _silent
    heldout: Heldout | None = None
    """The run's own text, for evaluations with `own_text`."""
    keep: Path | None = None
    """Folder for what must outlive the call, such as answers that were paid for; None keeps nothing."""

    def generator(self, *labels: str) -> torch.Generator:
        """Randomness that depends on the seed and on `labels` (evaluation, data set, autoencoder) alone."""
        digest = hashlib.sha256("\0".join([str(self.seed), *labels]).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def read(self, texts: Sequence[str], context: int) -> TokenRows:
        """Texts as the subject reads them, at most `context` tokens (and the subject's own limit) each."""
        limit = min(context, self.subject.max_context)
        return token_rows(
            self.subject.tokenizer,
            texts,
            limit,
            prepend_bos=self.prepend_bos,
            exclude_special=self.exclude_special,
        )

    def batches(self, rows: TokenRows, what: str) -> Iterator[Rows]:
        """Activations of all rows at the site, float32, raw (masked positions included); similar lengths together.

        Each row comes exactly once. The batches, their order and their shapes depend on `rows` alone.

        Raises:
            UserError: an activation at a real token is NaN or infinite.
        """
        chunks = _by_length(rows)
        size = bytes_of(sum(int(rows.lengths[c].max()) * len(c) for c in chunks), self.subject.info.d_model)

        def compute(i: int) -> Tensor:
            part = rows.rows(chunks[i])
            acts = self.subject.activations(part.tokens, [self.site], part.real)[self.site].float()
            if not acts[part.real.to(acts.device)].isfinite().all():
                raise UserError(
                    f"{what} at {self.site}: the subject's activations hold NaN or Inf; try --set subject.dtype=float32"
                )
            return acts

        done = 0
        self.progress(what, 0, len(rows))
        for index, acts in zip(chunks, self.cache.chunks(self._key(rows), len(chunks), size, compute), strict=True):
            yield Rows(index, self._batch(rows.rows(index), acts))
            done += len(index)
            self.progress(what, done, len(rows))

    def encoded(
        self, rows: TokenRows, saes: Mapping[str, Autoencoder], what: str
    ) -> Iterator[tuple[Rows, dict[str, Codes]]]:
        """Every batch with the codes of every autoencoder: whole contexts in, positions are chosen afterwards."""
        with torch.no_grad(), evaluating(saes):
            for part in self.batches(rows, what):
                yield part, {name: encode(sae, part.batch) for name, sae in saes.items()}

    def _key(self, rows: TokenRows) -> dict[str, str]:
        """All that decides the activations: the mask isn't among it, for the subject doesn't see it."""
        return {
            "subject": self.subject.fingerprint,
            "dtype": str(self.subject.dtype),
            "site": self.site,
            "rows": rows.showing(rows.real).sha256(),
            "device": self.subject.device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "chronosae": __version__,
        }

    def _batch(self, part: TokenRows, acts: Tensor) -> SequenceBatch:
        device = self.subject.device
        mask = part.mask.to(device)
        tokens = part.tokens.to(device)
        return SequenceBatch(
            acts=acts.to(device),
            mask=mask,
            tokens=tokens,
            positions=mask.long().cumsum(1) - 1,
            doc_ids=torch.zeros_like(tokens),
            source=("text",) * len(tokens),
        )


def _by_length(rows: TokenRows) -> list[Tensor]:
    """Row numbers, shortest rows first, in batches of at most `PASS_TOKENS` positions."""
    lengths = rows.lengths
    order = lengths.argsort(stable=True)
    chunks: list[Tensor] = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and int(lengths[order[end]]) * (end + 1 - start) <= PASS_TOKENS:
            end += 1
        chunks.append(order[start:end])
        start = end
    return chunks


def encode(sae: Autoencoder, batch: SequenceBatch) -> Codes:
    """Codes of whole contexts: the only way in which an evaluation encodes."""
    local = batch.to(sae.b_dec.device)
    return sae.encode(local.acts, local.mask, positions=local.positions, doc_ids=local.doc_ids)


@contextmanager
def evaluating(saes: Mapping[str, Autoencoder]) -> Iterator[None]:
    """Evaluation mode for the time of a pass; each autoencoder's own mode afterwards."""
    modes = {name: sae.training for name, sae in saes.items()}
    try:
        for sae in saes.values():
            sae.eval()
        yield
    finally:
        for name, sae in saes.items():
            sae.train(modes[name])
