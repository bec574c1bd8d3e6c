"""Fast paths, each beside its dense reference. Knows no other room.

On the CPU, loops compiled by numba (`loops`) do what is proportional to the active features; torch does it
where they are missing.
"""

from chronosae.kernels.adam import Moments, Rates, adamw_, adamw_dense_, as_rows, gradient_energy
from chronosae.kernels.causal_taps import causal_taps, causal_taps_dense
from chronosae.kernels.centre import centred, centred_rows
from chronosae.kernels.compiled import compiled_kernels, dense_only
from chronosae.kernels.context import Gate, Lookback, tokens_at
from chronosae.kernels.context_encode import encode_topk_in_context, encode_topk_in_context_dense
from chronosae.kernels.depthwise import depthwise_taps
from chronosae.kernels.history import gather_history, most_active, same_document, triple_weights, unit_values
from chronosae.kernels.mixed import mixed_products, product
from chronosae.kernels.mixed_taps import Taps, mix_taps
from chronosae.kernels.moments import count_regressors
from chronosae.kernels.noise import add_normal
from chronosae.kernels.prediction import EntryKeys, Predictor, absent, firing_energy, lagged_logits
from chronosae.kernels.rectify import error_of_largest, error_of_largest_dense, rectify_largest, rectify_largest_dense
from chronosae.kernels.rows import sigmoid, some_entries, some_rows
from chronosae.kernels.select import at_slots, largest_positive, largest_positive_dense
from chronosae.kernels.slots import count_active
from chronosae.kernels.sparse_decode import dense_decode, scatter_dense, sparse_decode
from chronosae.kernels.sparse_encode import encode_threshold, encode_topk, encode_topk_dense
from chronosae.kernels.squared_error import squared_error, squared_error_dense
from chronosae.kernels.triples import (
    Firings,
    Hashing,
    Held,
    Judged,
    Marginals,
    Standing,
    admit,
    blank,
    challenge,
    count_marginals,
    count_of,
    count_triples,
    empty_table,
    held_hits,
    unknown,
)
from chronosae.kernels.unit_gram import decode_with_energy, unit_gram_energy

__all__ = [
    "EntryKeys",
    "Firings",
    "Gate",
    "Hashing",
    "Held",
    "Judged",
    "Lookback",
    "Marginals",
    "Moments",
    "Predictor",
    "Rates",
    "Standing",
    "Taps",
    "absent",
    "adamw_",
    "adamw_dense_",
    "add_normal",
    "admit",
    "as_rows",
    "at_slots",
    "blank",
    "causal_taps",
    "causal_taps_dense",
    "centred",
    "centred_rows",
    "challenge",
    "compiled_kernels",
    "count_active",
    "count_marginals",
    "count_of",
    "count_regressors",
    "count_triples",
    "decode_with_energy",
    "dense_decode",
    "dense_only",
    "depthwise_taps",
    "empty_table",
    "encode_threshold",
    "encode_topk",
    "encode_topk_dense",
    "encode_topk_in_context",
    "encode_topk_in_context_dense",
    "error_of_largest",
    "error_of_largest_dense",
    "firing_energy",
    "gather_history",
    "gradient_energy",
    "held_hits",
    "lagged_logits",
    "largest_positive",
    "largest_positive_dense",
    "mix_taps",
    "mixed_products",
    "most_active",
    "product",
    "rectify_largest",
    "rectify_largest_dense",
    "same_document",
    "scatter_dense",
    "sigmoid",
    "some_entries",
    "some_rows",
    "sparse_decode",
    "squared_error",
    "squared_error_dense",
    "tokens_at",
    "triple_weights",
    "unit_gram_energy",
    "unit_values",
    "unknown",
]
