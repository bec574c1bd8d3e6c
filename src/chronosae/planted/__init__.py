"""Planted data: activation sequences whose dictionary, codes, edges and bands are known, and scores against them."""

from chronosae.planted.generate import Planted, generate
from chronosae.planted.ground import Edge
from chronosae.planted.presets import PLANTED
from chronosae.planted.spec import EdgeGroup, FeatureGroup, PlantedSpec
from chronosae.planted.stream import HELDOUT_FIRST, PlantedStream, Shuffle, batches

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
