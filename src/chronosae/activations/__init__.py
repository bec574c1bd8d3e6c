"""Activations of whole sequences: harvested live or cached on disk, resumable to the exact next batch."""

from chronosae.activations.ahead import Ahead, Rewindable
from chronosae.activations.batch import SequenceBatch
from chronosae.activations.cache import CacheBuilder, ShardFolder, cache_bytes
from chronosae.activations.cached import CachedStream
from chronosae.activations.harvest import ActivationStream, LiveStream, SiteBatches, harvest
from chronosae.activations.sequences import Encoder, Sequences, TokenBatch, token_mask
from chronosae.activations.store import (
    SiteScale,
    build_cache,
    heldout_batches,
    heldout_tokens,
    measure,
    measure_normalisation,
    open_stream,
    training_sequences,
    training_stream,
    unit_rms,
)

__all__ = [
    "ActivationStream",
    "Ahead",
    "CacheBuilder",
    "CachedStream",
    "Encoder",
    "LiveStream",
    "Rewindable",
    "SequenceBatch",
    "Sequences",
    "ShardFolder",
    "SiteBatches",
    "SiteScale",
    "TokenBatch",
    "build_cache",
    "cache_bytes",
    "harvest",
    "heldout_batches",
    "heldout_tokens",
    "measure",
    "measure_normalisation",
    "open_stream",
    "token_mask",
    "training_sequences",
    "training_stream",
    "unit_rms",
]
