"""Fast paths, each beside its dense reference. Knows no other room."""

from chronosae.kernels.sparse_decode import dense_decode, scatter_dense, sparse_decode

__all__ = ["dense_decode", "scatter_dense", "sparse_decode"]
