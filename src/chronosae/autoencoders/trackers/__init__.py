"""Trackers: state that watches training. Never Parameters, never a graph; all save, load and move.

Dead features are counted in `chronosae.training`, which resamples them.
"""

from chronosae.autoencoders.trackers.buffer import CircularFeatureBuffer
from chronosae.autoencoders.trackers.firing import FiringFrequency
from chronosae.autoencoders.trackers.importance import FeatureImportance

__all__ = ["CircularFeatureBuffer", "FeatureImportance", "FiringFrequency"]
