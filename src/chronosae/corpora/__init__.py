"""Text: registered corpora, local files, Hugging Face data sets, and weighted mixtures of them. Knows no models."""

from chronosae.corpora.counter import hash64, permutation, uniform
from chronosae.corpora.evaluation import open_evaluation_source
from chronosae.corpora.hub import HubSource
from chronosae.corpora.local import LocalSource
from chronosae.corpora.mixture import Mixture, Part
from chronosae.corpora.source import Document, Source, open_source, open_sources, register

__all__ = [
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
    "register",
    "uniform",
]
