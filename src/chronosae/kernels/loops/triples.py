"""Co-activations (target, lag, source) counted and judged where they occur, without a list of all of them."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import bits_of, loop


@loop
@no_type_check
def _cell(key, odd, bits, exact):
    """Multiply-shift hashing: the product wraps, its top bits are the cell."""
    if exact:
        return key
    return ((key * odd) >> (64 - bits)) & ((np.int64(1) << bits) - 1)


@loop
@no_type_check
def count_triples(features, values, past_features, past_values, d_sae, odd, bits, exact, counts):
    """Add one to the cell of every triple; how many there were."""
    n, lags, past = past_features.shape
    total = np.int64(0)
    for t in range(n):
        for m in range(lags):
            for j in range(past):
                if past_values[t, m, j] == 0:
                    continue
                for i in range(features.shape[1]):
                    if values[t, i] != 0:
                        key = (features[t, i] * lags + m) * d_sae + past_features[t, m, j]
                        counts[_cell(key, odd, bits, exact)] += 1
                        total += 1
    return total


@loop
@no_type_check
def challenge(features, values, past_features, past_values, d_sae, hashing, tables, load, held, worst, least, best):
    """Into `best [F, c]`, one a bucket, the most surprising triples that beat their target's worst slot.

    hashing: multipliers of the tables' rows, bits of a cell, exact. tables: counts [rows, cells], how often each source
    fired [w, F], each target's rate [w, F]. held: sources and lags [F, m]. An entry packs z above source and lag.
    """
    odds, bits, exact = hashing
    counts, fired, rates = tables
    held_source, held_lag = held
    n, lags, past = past_features.shape
    for t in range(n):
        for m in range(lags):
            for j in range(past):
                if past_values[t, m, j] == 0:
                    continue
                source = past_features[t, m, j]
                for i in range(features.shape[1]):
                    target = features[t, i]
                    if values[t, i] == 0 or source == target:
                        continue
                    key = (target * lags + m) * d_sae + source
                    count = counts[0, _cell(key, odds[0], bits, exact)]
                    for row in range(1, counts.shape[0]):
                        # Most are rare, and tables this large are far away.
                        if np.float32(count - load) < least:
                            break
                        count = min(count, counts[row, _cell(key, odds[row], bits, exact)])
                    count = np.float32(count - load)
                    if count < least:
                        continue
                    expected = fired[m, source] * rates[m, target]
                    z = np.float32((count - expected) / np.sqrt(expected + 1))
                    if not z > max(worst[target], 0):
                        continue
                    known = False
                    for s in range(held_source.shape[1]):
                        known = known or (held_source[target, s] == source and held_lag[target, s] == m + 1)
                    if known:
                        continue
                    code = source * lags + m
                    packed = (np.int64(bits_of(z)) << 32) | code
                    bucket = (code * 40503 >> 4) % best.shape[1]
                    best[target, bucket] = max(best[target, bucket], packed)


@loop
@no_type_check
def held_hits(features, values, past_features, past_values, source, lag, out):
    """Occurrences of held triples: token, slot among the token's targets, held slot, place in the past; how many.

    `out [4, room]`; where it is too small only the number is right.
    """
    n, past, found = features.shape[0], past_features.shape[2], np.int64(0)
    for t in range(n):
        for i in range(features.shape[1]):
            if values[t, i] == 0:
                continue
            target = features[t, i]
            for s in range(source.shape[1]):
                wanted, m = source[target, s], lag[target, s] - 1
                if wanted < 0:
                    continue
                for j in range(past):
                    if past_features[t, m, j] == wanted and past_values[t, m, j] != 0:
                        if found < out.shape[1]:
                            out[0, found], out[1, found], out[2, found], out[3, found] = t, i, s, j
                        found += 1
                        break
    return found
