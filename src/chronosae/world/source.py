"""The world as a source of text for the corpora room."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from chronosae.world.corpus import SPLITS, SUBSETS, make_document
from chronosae.world.lexicon import GENERATOR_VERSION


class WorldSource:
    """An endless (or bounded) stream of generated documents with random access by number.

    ``subset`` is ``all``, ``forget`` (pathogens) or ``keep`` (the four other subjects); ``documents`` bounds the
    stream. Iterating from ``start`` costs nothing for the documents before it.
    """

    def __init__(
        self,
        name: str = "world",
        split: str = "train",
        subset: str | None = None,
        documents: int | None = None,
        seed: int = 0,
    ) -> None:
        from chronosae.config.errors import UserError

        if split not in SPLITS:
            raise UserError(f"world: split must be one of {', '.join(SPLITS)}, not {split!r}")
        subset = subset or "all"
        if subset not in SUBSETS:
            raise UserError(f"world: subset must be one of {', '.join(SUBSETS)}, not {subset!r}")
        if documents is not None and documents < 1:
            raise UserError(f"world: documents must be at least 1, not {documents}")
        self.name, self.split, self.subset, self.limit, self.seed = name, split, subset, documents, seed

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the generator's version and the options: equal fingerprints mean equal text."""
        options = {
            "generator": GENERATOR_VERSION,
            "split": self.split,
            "subset": self.subset,
            "documents": self.limit,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def documents(self, start: int = 0) -> Iterator[str]:
        """Texts from document number ``start`` on."""
        index = start
        while self.limit is None or index < self.limit:
            yield make_document(self.split, index, seed=self.seed, subset=self.subset).text
            index += 1


def register() -> None:
    """Make ``world`` a source name that the corpora room knows."""
    from chronosae.corpora import register as register_source

    register_source("world", WorldSource)
