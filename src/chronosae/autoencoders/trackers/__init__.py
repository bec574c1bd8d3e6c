"""Trackers: state that watches training. Never Parameters, never a graph; all save, load and move.

Dead features are counted in `chronosae.training`, which resamples them.
"""

from chronosae.autoencoders.trackers.buffer import CircularFeatureBuffer
from chronosae.autoencoders.trackers.correlation import Interaction, TemporalCorrelationTracker
from chronosae.autoencoders.trackers.firing import FiringFrequency
from chronosae.autoencoders.trackers.history import as_slots, same_document
from chronosae.autoencoders.trackers.importance import FeatureImportance
from chronosae.autoencoders.trackers.moments import CandidateMoments
from chronosae.autoencoders.trackers.sketch import surprise

__all__ = [
    "CandidateMoments",
    "CircularFeatureBuffer",
    "FeatureImportance",
    "FiringFrequency",
    "Interaction",
    "TemporalCorrelationTracker",
    "as_slots",
    "same_document",
    "surprise",
]
