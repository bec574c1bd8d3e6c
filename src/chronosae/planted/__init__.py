"""Planted data: activation sequences whose dictionary, codes, edges and bands are known, and scores against them."""

from chronosae.planted.data import HELDOUT_FIRST, Planted, PlantedStream, Shuffle, batches, generate
from chronosae.planted.sample import Edge
from chronosae.planted.spec import PLANTED, EdgeGroup, FeatureGroup, PlantedSpec

__all__ = [
    "HELDOUT_FIRST",
    "PLANTED",
    "Edge",
    "EdgeGroup",
    "FeatureGroup",
    "Planted",
    "PlantedSpec",
    "PlantedStream",
    "Shuffle",
    "batches",
    "generate",
]
