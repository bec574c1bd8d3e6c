"""Scores of an autoencoder, or of a set of edges, against planted truth. Each is a pure function."""

from chronosae.planted.scores.edges import (
    EdgeScores,
    EdgeSetScore,
    average_precision,
    edge_auroc,
    precision_at,
    set_precision_recall,
)
from chronosae.planted.scores.matching import Matching, match, mcc
from chronosae.planted.scores.support import SupportScore, support_f1
from chronosae.planted.scores.temporal import (
    Autocorrelation,
    SlowRecovery,
    lag1_autocorrelation,
    position_mass,
    position_weights,
    slow_feature_recovery,
)

__all__ = [
    "Autocorrelation",
    "EdgeScores",
    "EdgeSetScore",
    "Matching",
    "SlowRecovery",
    "SupportScore",
    "average_precision",
    "edge_auroc",
    "lag1_autocorrelation",
    "match",
    "mcc",
    "position_mass",
    "position_weights",
    "precision_at",
    "set_precision_recall",
    "slow_feature_recovery",
    "support_f1",
]
