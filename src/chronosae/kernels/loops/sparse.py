"""Work proportional to the active features: decoding, and gradients of both weights.

Slots are numbered through all tokens: slot p belongs to token p // slots. `start` and `place` list the used slots
feature by feature, so that one pass over the features reads every weight row once and adds up its gradient in cache.

The last part is of features that look back along the context, whose gradient goes to earlier tokens too.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, full_width, loop, summing

# Of x at a time: 2,048 tokens of them fit in the cache of a core.
COLUMNS = 128


@loop
@no_type_check
def by_feature(indices, values, d_sae):
    """Counting sort of the slots whose value isn't zero: those of feature f are `place[start[f]:start[f + 1]]`."""
    tokens, slots = indices.shape
    start = np.zeros(d_sae + 1, np.int64)
    for t in range(tokens):
        for s in range(slots):
            start[indices[t, s] + 1] += np.int64(values[t, s] != 0)
    for f in range(d_sae):
        start[f + 1] += start[f]
    cursor, place = start[:-1].copy(), np.empty(start[d_sae], np.int64)
    for t in range(tokens):
        for s in range(slots):
            if values[t, s] != 0:
                f = indices[t, s]
                place[cursor[f]] = t * slots + s
                cursor[f] += 1
    return start, place


@summing
@no_type_check
def combine(indices, values, W, bias, first, last, out):
    """`out[t] = sum_s values[t, s] W[indices[t, s]] + bias`, four rows a pass."""
    slots, width = indices.shape[1], W.shape[1]
    for t in range(first, last):
        total = out[t]
        total[:] = bias
        # Unused slots are the last ones, but need not be: a term may silence any.
        for s in range(0, slots - 3, 4):
            a, b, c, d = values[t, s], values[t, s + 1], values[t, s + 2], values[t, s + 3]
            if a == 0 and b == 0 and c == 0 and d == 0:
                continue
            A, B, C, D = W[indices[t, s]], W[indices[t, s + 1]], W[indices[t, s + 2]], W[indices[t, s + 3]]
            for i in range(width):
                total[i] += (a * A[i] + b * B[i]) + (c * C[i] + d * D[i])
        for s in range(slots - slots % 4, slots):
            a, A = values[t, s], W[indices[t, s]]
            for i in range(width):
                total[i] += a * A[i]


@summing
@no_type_check
def decode_gradients(start, place, slots, values, grad, W, first, last, fresh, grad_W, grad_values):
    """`grad_W[f] = sum values[p] grad[token of p]` and `grad_values[p] = grad[token of p] . W[f]` over slots p of f.

    Unless `fresh`, the sum is added to what is in `grad_W`.
    """
    width = W.shape[1]
    for f in range(first, last):
        total, row = grad_W[f], W[f]
        if fresh:
            total[:] = 0
        for q in range(start[f], start[f + 1]):
            p = place[q]
            value, g = values[p], grad[p // slots]
            product = W.dtype.type(0)
            for i in range(width):
                product += g[i] * row[i]
                total[i] += value * g[i]
            grad_values[p] = product


@summing
@no_type_check
def weighted_rows(start, place, slots, values, x, first, last, grad_W, grad_bias):
    """`grad_W[f] = sum values[p] x[token of p]` and `grad_bias[f] = sum values[p]` over slots p of f."""
    width = x.shape[1]
    for f in range(first, last):
        total, bias, q, end = grad_W[f], x.dtype.type(0), start[f], start[f + 1]
        total[:] = 0
        while q + 3 < end:
            p0, p1, p2, p3 = place[q], place[q + 1], place[q + 2], place[q + 3]
            a, b, c, d = values[p0], values[p1], values[p2], values[p3]
            A, B, C, D = x[p0 // slots], x[p1 // slots], x[p2 // slots], x[p3 // slots]
            bias += (a + b) + (c + d)
            for i in range(width):
                total[i] += (a * A[i] + b * B[i]) + (c * C[i] + d * D[i])
            q += 4
        while q < end:
            p = place[q]
            a, A = values[p], x[p // slots]
            bias += a
            for i in range(width):
                total[i] += a * A[i]
            q += 1
        grad_bias[f] = bias


@summing
@no_type_check
def silent_gradients(indices, values, grad, W, first, last, grad_values):
    """`grad[t] . W[indices[t, s]]` for the slots of value 0, which belong to no feature's list."""
    for t in range(first, last):
        latest, product = np.int64(-1), W.dtype.type(0)
        for s in range(indices.shape[1]):
            if values[t, s] == 0:
                # Unused slots all name feature 0.
                if indices[t, s] != latest:
                    latest, product = indices[t, s], dot(grad[t], W[indices[t, s]])
                grad_values[t, s] = product


@loop
@no_type_check
def count_active(indices, values, per_feature, per_token):
    """How often each feature is active, and how many are at each token."""
    per_feature[:] = 0
    for t in range(indices.shape[0]):
        active = np.int64(0)
        for s in range(indices.shape[1]):
            if values[t, s] != 0:
                active += 1
                per_feature[indices[t, s]] += 1
        per_token[t] = active


@summing
@no_type_check
def spread_over_lags(start, place, slots, grad, lagged, taps, sources, first, last, terms, coefficients, ends, sums):
    """Which rows of x enter each feature's gradient, and how: `ends[f] - (L + 1) start[f]` terms from there on.

    `sums` gets a row a feature: the gradient of the bias, the sum of the coefficients, the gradients of the taps.
    """
    lags = taps.shape[0]
    for f in range(first, last):
        n = (lags + 1) * start[f]
        for m in range(lags + 2):
            sums[f, m] = 0
        for q in range(start[f], start[f + 1]):
            p = place[q]
            g, t = grad[p], p // slots
            sums[f, 0] += g
            sums[f, 1] += g
            terms[n], coefficients[n] = t, g
            n += 1
            for m in range(lags):
                if sources[m, t] >= 0:
                    sums[f, m + 2] += g * lagged[p, m]
                    if taps[m, f] != 0:
                        sums[f, 1] += g * taps[m, f]
                        terms[n], coefficients[n] = sources[m, t], g * taps[m, f]
                        n += 1
        ends[f] = n


@summing
@no_type_check
def add_terms(start, ends, terms, coefficients, x, stride, first, last, out):
    """`out[f] = sum coefficients x[terms]` over the feature's terms; a block of columns of x stays in cache."""
    full_width()
    # Unsigned places in the flat table: to make a view of every row would cost more than to add it.
    D, flat, width = np.uint64(x.shape[1]), x.reshape(-1), np.uint64(COLUMNS)
    left = np.uint64(0)
    while left < D:
        right = min(left + width, D)
        for f in range(first, last):
            total, q, end = out[f], stride * start[f], ends[f]
            for i in range(left, right):
                total[i] = 0
            while q + 4 < end:
                a, b, c, d, e = (
                    coefficients[q],
                    coefficients[q + 1],
                    coefficients[q + 2],
                    coefficients[q + 3],
                    coefficients[q + 4],
                )
                A, B = np.uint64(terms[q]) * D, np.uint64(terms[q + 1]) * D
                C, E = np.uint64(terms[q + 2]) * D, np.uint64(terms[q + 3]) * D
                G = np.uint64(terms[q + 4]) * D
                for i in range(left, right):
                    total[i] += (
                        (a * flat[A + i] + b * flat[B + i]) + (c * flat[C + i] + d * flat[E + i]) + e * flat[G + i]
                    )
                q += 5
            while q < end:
                a, A = coefficients[q], np.uint64(terms[q]) * D
                for i in range(left, right):
                    total[i] += a * flat[A + i]
                q += 1
        left = right


@summing
@no_type_check
def _add_rows(x, terms, coefficients, n, total):
    """`total += sum coefficients x[terms]`, four rows a pass."""
    full_width()
    width, q = x.shape[1], 0
    while q + 3 < n:
        a, b, c, d = coefficients[q], coefficients[q + 1], coefficients[q + 2], coefficients[q + 3]
        A, B, C, D = x[terms[q]], x[terms[q + 1]], x[terms[q + 2]], x[terms[q + 3]]
        for i in range(width):
            total[i] += (a * A[i] + b * B[i]) + (c * C[i] + d * D[i])
        q += 4
    while q < n:
        a, A = coefficients[q], x[terms[q]]
        for i in range(width):
            total[i] += a * A[i]
        q += 1


@summing
@no_type_check
def combine_in_context(indices, values, W, taps, sources, lags, first, last, out):
    """`out[u] = sum over slots of u, and over those of later tokens that look back at u, of value (tap) W[index]`."""
    full_width()
    slots, n = indices.shape[1], indices.shape[0]
    terms, coefficients = np.empty(slots * (1 + len(lags)), np.int64), np.empty(slots * (1 + len(lags)), W.dtype)
    for u in range(first, last):
        out[u] = 0
        count = 0
        for s in range(slots):
            if values[u, s] != 0:
                terms[count], coefficients[count] = indices[u, s], values[u, s]
                count += 1
        for m in range(lags.shape[0]):
            t = u + lags[m]
            if t < n and sources[m, t] == u:
                for s in range(slots):
                    tap = taps[m, indices[t, s]]
                    if values[t, s] != 0 and tap != 0:
                        terms[count], coefficients[count] = indices[t, s], tap * values[t, s]
                        count += 1
        _add_rows(W, terms, coefficients, count, out[u])
