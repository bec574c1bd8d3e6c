"""What a source of text is, how one is added, and how those of training and of evaluation are opened by name.

    @CORPORA.add
    class Diary(Corpus):
        name = "diary"

        def documents(self, start=0):
            return islice(read_pages(self.split), start, None)

A run reads it with `corpus: {path: diary}`.
"""

import filecmp
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from chronosae.config import CorpusConfig, Section, SourceConfig, UserError, canonical_json, validate
from chronosae.config.registry import Registry
from chronosae.corpora.hub import HubSource
from chronosae.corpora.local import LocalSource, is_local


@dataclass(frozen=True)
class Document:
    """One document of a mixture, and where it comes from.

    `index` counts the non-blank documents of its source, from 0; `epoch` the earlier passes over that source;
    `serial` the draws of the mixture, so that it differs between any two documents handed out.
    """

    text: str
    source: str
    index: int
    epoch: int = 0
    serial: int = 0


@runtime_checkable
class Source(Protocol):
    """A sequence of texts that can be read from any row on.

    `fingerprint` is a hash of everything that decides which texts come out; it may be costly and is asked for only
    when something is kept on disk.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex."""
        ...

    def documents(self, start: int = 0) -> Iterator[str]:
        """The texts of one pass, beginning with row `start`; blank ones included."""
        ...


CORPORA: Registry["Corpus"] = Registry("corpus")
"""Corpora by name. A registered name wins over a local path of the same spelling; write `./name` for the path."""


class Corpus(Section, ABC):
    """A corpus with a name of its own; a configuration's `split` and `subset` fill the fields of that name."""

    name: ClassVar[str]
    split: str = "train"
    subset: str | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides which texts come out: its options, unless the text itself may change."""
        return hashlib.sha256(f"{self.name} {canonical_json(self)}".encode()).hexdigest()

    @abstractmethod
    def documents(self, start: int = 0) -> Iterator[str]:
        """The texts of one pass, beginning with row `start`; blank ones included."""

    def open(self, name: str) -> Source:
        """The corpus as a source that travels under `name`."""
        return _Opened(name, self)


@dataclass
class _Opened:
    name: str
    corpus: Corpus

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    def documents(self, start: int = 0) -> Iterator[str]:
        return self.corpus.documents(start)


def open_source(cfg: SourceConfig, key: str = "corpus.path") -> Source:
    """The source that `cfg.path` names: a registered corpus, a local file or folder, or a Hugging Face name.

    Args:
        cfg: what to open.
        key: the configuration key that holds the path, for error messages.

    Raises:
        UserError: it doesn't exist, can't be read, or holds no text.
    """
    if not cfg.path:
        raise UserError(f"{key} is empty; give a registered corpus, a file, a folder or a Hugging Face name")
    if cfg.path in CORPORA:
        where = key.removesuffix(".path")
        given = {"split": cfg.split, "subset": cfg.subset}
        return validate(CORPORA[cfg.path], given, cfg.path, where).open(cfg.name or cfg.path)
    name = cfg.name or Path(os.path.normpath(cfg.path)).name or cfg.path
    if is_local(cfg.path):
        return LocalSource(cfg.path, name=name, text_field=cfg.text_field, separator=cfg.separator, key=key)
    return HubSource(cfg.path, name=name, subset=cfg.subset, split=cfg.split, text_field=cfg.text_field, key=key)


def open_sources(cfg: CorpusConfig) -> tuple[list[Source], list[float]]:
    """Every training source of a corpus, and its weight.

    Raises:
        UserError: a source can't be opened, or two would travel under the same name.
    """
    configs = cfg.resolved_sources()
    keys = [f"corpus.sources.{i}.path" for i in range(len(configs))] if cfg.sources else ["corpus.path"]
    sources = [open_source(each, key) for each, key in zip(configs, keys, strict=True)]
    names = [source.name for source in sources]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"corpus.sources.{i}: a source named {name!r} exists already; tell them apart with name")
    return sources, [each.weight for each in configs]


def open_evaluation_source(cfg: CorpusConfig) -> Source:
    """What `eval_path` names; only for a corpus that has one.

    Raises:
        UserError: it can't be opened, or training reads it too: the same source (by fingerprint), or one and the same
            local file, by whatever name and however cut into documents.
    """
    evaluation = cfg.resolved_evaluation()
    assert evaluation is not None
    source = open_source(evaluation, "corpus.eval_path")
    for trained in cfg.resolved_sources():
        # Others can't be the same text, and to open them may take the network.
        if trained.path == evaluation.path or (is_local(trained.path) and is_local(evaluation.path)):
            _refuse_trained(source, open_source(trained), evaluation.path, evaluation.split)
    return source


def _refuse_trained(source: Source, trained: Source, path: str, split: str) -> None:
    if isinstance(source, LocalSource) and isinstance(trained, LocalSource):
        file = _shared_file(source, trained)
        if file is not None:
            raise UserError(
                f"corpus.eval_path: {file} is trained on too (source {trained.name!r}); give other text, or none:"
                " then every corpus.holdout_every-th document is held out"
            )
    elif type(source) is type(trained) and source.fingerprint == trained.fingerprint:
        raise UserError(
            f"corpus.eval_path: {path!r} with split {split!r} is trained on too (source {trained.name!r}); set"
            " corpus.eval_split or corpus.eval_subset to another part, or give other text"
        )


def _shared_file(source: LocalSource, trained: LocalSource) -> Path | None:
    """A file of `source` whose content `trained` has too; only files of one size are read."""
    sizes: dict[int, list[Path]] = {}
    for file in trained.files:
        sizes.setdefault(file.stat().st_size, []).append(file)
    for file in source.files:
        size = file.stat().st_size
        if size and any(_same(file, other) for other in sizes.get(size, ())):
            return file
    return None


def _same(file: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(file, other, shallow=False)
    except OSError:  # reading it as text will say so, in one line
        return False
