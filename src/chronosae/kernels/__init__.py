"""Fast paths, each beside its dense reference. Knows no other room."""

from chronosae.kernels.causal_taps import causal_taps, causal_taps_dense
from chronosae.kernels.sparse_decode import dense_decode, scatter_dense, sparse_decode

__all__ = ["causal_taps", "causal_taps_dense", "dense_decode", "scatter_dense", "sparse_decode"]
