"""Work proportional to the active features: decoding, and gradients of both weights.

Slots are numbered through all tokens: slot p belongs to token p // slots. `start` and `place` list the used slots
feature by feature, so that one pass over the features reads every weight row once and adds up its gradient in cache.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, loop, summing


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
