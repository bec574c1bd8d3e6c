"""What a source of text is, and how one is opened by name."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from chronosae.config import CorpusConfig, SourceConfig, UserError


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


SourceFactory = Callable[..., Source]
_REGISTERED: dict[str, SourceFactory] = {}


def register(name: str, factory: SourceFactory) -> None:
    """Make `corpus.path: name` open `factory(name=..., split=..., subset=...)`.

    The factory raises `UserError` for a split or subset it doesn't have. A registered name wins over a local path of
    the same spelling; write `./name` for the path.
    """
    _REGISTERED[name] = factory


def open_source(cfg: SourceConfig, key: str = "corpus.path") -> Source:
    """The source that `cfg.path` names: a registered corpus, a local file or folder, or a Hugging Face name.

    Args:
        cfg: what to open.
        key: the configuration key that holds the path, for error messages.

    Raises:
        UserError: it doesn't exist, can't be read, or holds no text.
    """
    from chronosae.corpora.hub import HubSource  # here, because `datasets` takes a second to import
    from chronosae.corpora.local import LocalSource, is_local

    if not cfg.path:
        raise UserError(f"{key} is empty; give a registered corpus, a file, a folder or a Hugging Face name")
    if cfg.path in _REGISTERED:
        return _REGISTERED[cfg.path](name=cfg.name or cfg.path, split=cfg.split, subset=cfg.subset)
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
