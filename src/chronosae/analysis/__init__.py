"""Temporal analysis of codes: lagged edges between features, chains of them, and data in which there are none."""

from chronosae.analysis.chains import Chain, Flow, VertexCut, disjoint_chains, max_flow, strongest_path, vertex_cut
from chronosae.analysis.edges import EdgeSet, LaggedCounts, lagged_edges, prune_indirect
from chronosae.analysis.nulls import naive_interactions, shift_features, shuffle_batch, shuffle_time, surprise_edges

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
