"""Text: registered corpora, local files, Hugging Face data sets, and weighted mixtures of them. Knows no models."""

from chronosae.corpora.hub import HubSource
from chronosae.corpora.local import LocalSource
from chronosae.corpora.mixture import Mixture, Part, hash64, permutation, uniform
from chronosae.corpora.source import (
    CORPORA,
    Corpus,
    Document,
    Source,
    open_evaluation_source,
    open_source,
    open_sources,
)

__all__ = [
    "CORPORA",
    "Corpus",
    "Document",
    "HubSource",
    "LocalSource",
    "Mixture",
    "Part",
    "Source",
    "hash64",
    "open_evaluation_source",
    "open_source",
    "open_sources",
    "permutation",
    "uniform",
]
