"""What fired at some tokens and before them, gathered and scaled: small work, so one thread does it at once."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import loop


@loop
@no_type_check
def most_active(values):
    """The largest number of values that aren't zero in a row."""
    most = 0
    for t in range(values.shape[0]):
        n = 0
        for s in range(values.shape[1]):
            n += np.int64(values[t, s] != 0)
        most = max(most, n)
        if most == values.shape[1]:
            break
    return most


@loop
@no_type_check
def same_document(mask, doc_ids, valid):
    """`valid[row, t, l - 1]`: tokens t - l and t are unmasked, in one document. doc_ids: no columns where it's one."""
    for row in range(mask.shape[0]):
        start = 0
        for t in range(mask.shape[1]):
            if t > 0 and doc_ids.shape[1] > 0 and doc_ids[row, t] != doc_ids[row, t - 1]:
                start = t
            for m in range(valid.shape[2]):
                before = t - m - 1
                valid[row, t, m] = before >= start and mask[row, t] and mask[row, before]


@loop
@no_type_check
def gather_history(indices, values, valid, tokens, out):
    """The slots of `tokens [n, 2]` (row, position) and of the w positions before, values 0 where these don't count."""
    features, now, past_features, past_values, present = out
    w, k = valid.shape[2], indices.shape[2]
    for t in range(tokens.shape[0]):
        row, position = tokens[t, 0], tokens[t, 1]
        for s in range(k):
            features[t, s], now[t, s] = indices[row, position, s], values[row, position, s]
        for m in range(w):
            before, present[t, m] = max(position - m - 1, 0), valid[row, position, m]
            for s in range(k):
                past_features[t, m, s] = indices[row, before, s]
                past_values[t, m, s] = values[row, before, s] if present[t, m] else values.dtype.type(0)


@loop
@no_type_check
def unit_values(features, values, mean_square, out):
    """Values over the root mean square of their feature, 0 where that is 0."""
    for p in range(features.shape[0]):
        square = mean_square[features[p]]
        out[p] = values[p] / np.sqrt(square) if square > 0 else mean_square.dtype.type(0)


@loop
@no_type_check
def triple_weights(sources, targets, lags, U, V, values, source, lag, out):
    """`U_il . V_jl` and the value of the candidate (i, j, l), if it is one, of each triple."""
    w, rank, m = U.shape[1], U.shape[2], values.shape[1]
    left, right = U.reshape(-1), V.reshape(-1)
    for p in range(sources.shape[0]):
        i, j, total = targets[p], sources[p], U.dtype.type(0)
        a, b = np.uint64((i * w + lags[p] - 1) * rank), np.uint64((j * w + lags[p] - 1) * rank)
        for r in range(np.uint64(rank)):
            total += left[a + r] * right[b + r]
        for e in range(m):
            if source[i, e] == j and lag[i, e] == lags[p]:
                total += values[i, e]
        out[p] = total
