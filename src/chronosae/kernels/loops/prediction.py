"""What fired before tokens, and the log-odds of features from it, with their gradients.

Work is proportional to what is asked and what fired. The small things are done by one thread, at once.

Shapes: n tokens, q targets of each, w lags, k slots, F features, m candidate entries of a target, r rank.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import loop, summing


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


@summing
@no_type_check
def lagged_logits(targets, past, y, b, U, V, values, keys, first, last, context, out, hits, strengths):
    """Of tokens `first` to `last`: `b + U . context + sum of the candidates that fired`, and context; number of hits.

    U, V: [F, w r]. keys [F, m]: (lag - 1) F + source of a candidate, -1 for none. context [n, w r]: sums of y V. hits
    [2, room]: flat entry in [F, m], flat place in [n, q]; strengths [room]: y of the source. Where there is too little
    room only the number is right.
    """
    w, k, q, m = past.shape[1], past.shape[2], targets.shape[1], keys.shape[1]
    width, d_sae, found = np.uint64(U.shape[1]), b.shape[0], np.int64(0)
    rank = np.uint64(U.shape[1] // w)
    left, right, entries = U.reshape(-1), V.reshape(-1), keys.reshape(-1)
    place = np.zeros(w * d_sae, np.int32)
    # Whether a key fired, a bit each, small enough for the nearest cache. The first word is where free entries look.
    bits = np.zeros((w * d_sae + 31) // 32 + 1, np.uint32)
    for t in range(first, last):
        total = context[t]
        total[:] = 0
        for a in range(w):
            for j in range(k):
                v = y[t, a, j]
                if v == 0:
                    continue
                f, at = past[t, a, j], np.uint64(a) * rank
                row = np.uint64(f) * width + at
                for i in range(rank):
                    total[at + i] += v * right[row + i]
                key = a * d_sae + f
                place[key] = a * k + j + 1
                bits[(key >> 5) + 1] |= np.uint32(1) << np.uint32(key & 31)
        for i in range(q):
            f = targets[t, i]
            row, start, logit = np.uint64(f) * width, np.uint64(f * m), b.dtype.type(0)
            for x in range(width):
                logit += total[x] * left[row + x]
            logit += b[f]
            fired = np.uint32(0)
            for e in range(np.uint64(m)):
                key = np.uint32(entries[start + e] + np.int32(32))
                fired |= np.uint32(bits[key >> np.uint32(5)] >> (key & np.uint32(31)))
            if fired & np.uint32(1):
                for e in range(np.uint64(m)):
                    if entries[start + e] < 0:
                        continue
                    p = place[entries[start + e]] - 1
                    if p < 0:
                        continue
                    v = y[t, p // k, p % k]
                    logit += values[f, e] * v
                    if found < strengths.shape[0]:
                        hits[0, found], hits[1, found], strengths[found] = f * m + np.int64(e), t * q + i, v
                    found += 1
            out[t, i] = logit
        for a in range(w):
            for j in range(k):
                key = a * d_sae + past[t, a, j]
                place[key] = 0
                bits[(key >> 5) + 1] = 0
    return found


@loop
@no_type_check
def hit_gradients(hits, strengths, grad, out):
    """The flat gradient of the candidates' values, from that of the flat log-odds and every hit."""
    out[:] = 0
    for h in range(strengths.shape[0]):
        out[hits[0, h]] += strengths[h] * grad[hits[1, h]]


@summing
@no_type_check
def past_gradients(past, y, grad, first, last, out):
    """Add the gradient to V [F, w r] at lags `first` to `last`; `grad [n, w r]` is that to `context = sum y V`."""
    n, w, k = past.shape
    width, rank = np.uint64(out.shape[1]), np.uint64(out.shape[1] // w)
    flat, slopes = out.reshape(-1), grad.reshape(-1)
    for a in range(first, last):
        for t in range(n):
            at = np.uint64(t) * width + np.uint64(a) * rank
            for j in range(k):
                v = y[t, a, j]
                if v == 0:
                    continue
                row = np.uint64(past[t, a, j]) * width + np.uint64(a) * rank
                for i in range(rank):
                    flat[row + i] += v * slopes[at + i]


@loop
@no_type_check
def absent(features, values, drawn, d_sae, out):
    """Whether each feature in `drawn [n, d]` is not among those active at its token."""
    active = np.zeros(d_sae, np.bool_)
    for t in range(features.shape[0]):
        for i in range(features.shape[1]):
            if values[t, i] != 0:
                active[features[t, i]] = True
        for i in range(drawn.shape[1]):
            out[t, i] = not active[drawn[t, i]]
        for i in range(features.shape[1]):
            active[features[t, i]] = False


@loop
@no_type_check
def firing_energy(indices, values, mask, count, energy):
    """How often each feature is active at unmasked tokens, and the sum of the squares of its values there."""
    count[:] = 0
    energy[:] = 0
    for t in range(indices.shape[0]):
        if not mask[t]:
            continue
        for s in range(indices.shape[1]):
            v = np.float64(values[t, s])
            if v != 0:
                count[indices[t, s]] += 1
                energy[indices[t, s]] += v * v
