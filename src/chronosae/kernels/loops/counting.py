"""Triples (target, lag, source) and features counted into tables.

A triple's key is target w F + (lag - 1) F + source: what fired before a token is the same for all of its targets.

Of each target's own few regressors (features at lags) also how often two of them fired together. On which of 128 tokens
something fired is two words of 64 bits, so that a regressor and another meet in one instruction and each target's table
is visited once.
"""

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from chronosae.kernels.loops.bits import loop

# Reads under way at once; more than a core can have find no room, fewer leave it waiting.
AHEAD = np.uint64(64)


@intrinsic
@no_type_check
def fetch(typing: Any, array: Any, index: Any) -> Any:
    """Bring an entry of a one-dimensional array near, without waiting for it. It need not be written to."""
    return types.void(array, types.uint64), _prefetch


@no_type_check
def _prefetch(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To read, to be used again, data.
    builder.call(call, [builder.bitcast(builder.gep(data, [args[1]]), byte), word(0), word(3), word(1)])
    return context.get_dummy_value()


@loop
@no_type_check
def count_marginals(features, values, past_features, past_values, valid, source, target, pairs):
    """Add to how often each feature fired l positions before a token `source [w, F]` and at one `target [w, F]`."""
    n, lags, past = past_features.shape
    for t in range(n):
        for m in range(lags):
            if not valid[t, m]:
                continue
            pairs[m] += 1
            for j in range(past):
                if past_values[t, m, j] != 0:
                    source[m, past_features[t, m, j]] += 1
            for i in range(features.shape[1]):
                if values[t, i] != 0:
                    target[m, features[t, i]] += 1


@loop
@no_type_check
def active_past(past_features, past_values, t, d_sae, found):
    """(lag - 1) F + source of what fired before token t, in `found`; how many."""
    lags, past, n = past_features.shape[1], past_features.shape[2], 0
    for m in range(lags):
        for j in range(past):
            if past_values[t, m, j] != 0:
                found[n] = m * d_sae + past_features[t, m, j]
                n += 1
    return n


@loop
@no_type_check
def cell_of(key, odd, bits, exact):
    """Multiply-shift hashing: the product wraps, its top bits are the cell."""
    return np.uint64(key) if exact else (np.uint64(key) * odd) >> bits


@loop
@no_type_check
def count_triples(features, values, past_features, past_values, d_sae, odd, bits, exact, part, counts, after):
    """Add one to the cell of every triple, and note in `after [n, k, w past]` what it then holds.

    bits: those of a product that are no part of the cell. part: (which, of how many) of the targets.
    """
    n, lags, past = past_features.shape
    k, width, notes = features.shape[1], np.uint64(lags * past), after.reshape(-1)
    found, cells = np.empty(lags * past, np.int64), np.zeros(np.uint64(k) * width + AHEAD, np.uint64)
    for t in range(n):
        active, q = np.uint64(active_past(past_features, past_values, t, d_sae, found)), np.uint64(0)
        for i in range(k):
            if values[t, i] != 0 and features[t, i] % part[1] == part[0]:
                key = features[t, i] * lags * d_sae
                for p in range(active):
                    cells[q + p] = cell_of(key + found[p], odd, bits, exact)
                q += active
        # Apart from the hashing, and far ahead: the cells are spread over a table far larger than any cache.
        q = np.uint64(0)
        for i in range(k):
            if values[t, i] != 0 and features[t, i] % part[1] == part[0]:
                at = np.uint64(t * k + i) * width
                for p in range(active):
                    fetch(counts, cells[q + p + AHEAD])
                    cell = cells[q + p]
                    count = counts[cell] + np.float32(1)
                    counts[cell] = count
                    notes[at + p] = count
                q += active


@intrinsic
@no_type_check
def ones_in(typing: Any, word: Any) -> Any:
    """How many bits of 64 are set."""
    return types.uint64(types.uint64), _ctpop


@no_type_check
def _ctpop(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.ctpop(args[0])


@loop
@no_type_check
def mark_firings(features, values, past_features, past_values, full, low, high, now):
    """Set the bits of at most 128 tokens that are `full`: of each (lag, feature) before it, and of each feature now.

    low, high [w F]: bits 0 to 63 and 64 to 127. now [2, F]: the same of what fires at the token.
    """
    lags, past, d_sae = past_features.shape[1], past_features.shape[2], now.shape[1]
    for t in range(features.shape[0]):
        if not full[t]:
            continue
        bit, words = np.uint64(1) << np.uint64(t & 63), high if t > 63 else low
        for m in range(lags):
            for j in range(past):
                if past_values[t, m, j] != 0:
                    words[m * d_sae + past_features[t, m, j]] |= bit
        for i in range(features.shape[1]):
            if values[t, i] != 0:
                now[t >> 6, features[t, i]] |= bit


@loop
@no_type_check
def count_regressors(source, lag, low, high, now, first, last, joint, with_target, target):
    """Add to targets `first` to `last` on how many tokens their regressors fired together, and with the target."""
    d_sae, r = source.shape
    width, flat = np.uint64(r), joint.reshape(-1)
    a, b = np.empty(r, np.uint64), np.empty(r, np.uint64)
    for f in range(first, last):
        some = np.uint64(0)
        for x in range(r):
            used = source[f, x] >= 0
            key = np.uint64((lag[f, x] - 1) * d_sae + source[f, x]) if used else np.uint64(0)
            a[x], b[x] = low[key] if used else np.uint64(0), high[key] if used else np.uint64(0)
            some |= a[x] | b[x]
        A, B = now[0, f], now[1, f]
        target[f] += ones_in(A) + ones_in(B)
        if some == 0:
            continue
        for x in range(r):
            C, D = a[x], b[x]
            if C | D == 0:
                continue
            with_target[f, x] += ones_in(A & C) + ones_in(B & D)
            row = np.uint64(f * r + x) * width
            for y in range(width):
                flat[row + y] += np.float32(np.int32(ones_in(a[y] & C) + ones_in(b[y] & D)))
