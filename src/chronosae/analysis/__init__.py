"""Temporal analysis of codes: lagged edges between features, chains of them, and data in which there are none."""

from chronosae.analysis.baselines import naive_interactions, surprise_edges
from chronosae.analysis.chains import Chain, disjoint_chains, strongest_path
from chronosae.analysis.counts import LaggedCounts
from chronosae.analysis.edge_set import EdgeSet
from chronosae.analysis.edges import lagged_edges
from chronosae.analysis.flow import Flow, VertexCut, max_flow, vertex_cut
from chronosae.analysis.nulls import shift_features, shuffle_batch, shuffle_time
from chronosae.analysis.prune import prune_indirect

__all__ = [
    "Chain",
    "EdgeSet",
    "Flow",
    "LaggedCounts",
    "VertexCut",
    "disjoint_chains",
    "lagged_edges",
    "max_flow",
    "naive_interactions",
    "prune_indirect",
    "shift_features",
    "shuffle_batch",
    "shuffle_time",
    "strongest_path",
    "surprise_edges",
    "vertex_cut",
]
