"""Gradients of features that look back along the context: see `kernels/context.py`."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import full_width, summing

# Of x at a time: 2,048 tokens of them fit in the cache of a core.
COLUMNS = 128


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
