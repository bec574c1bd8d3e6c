"""Depthwise taps over earlier and later tokens, and what goes with products in bfloat16: unit rows, turned matrices."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, half, loop, summing, wide
from chronosae.kernels.loops.sparse import decode_gradients


@summing
@no_type_check
def depthwise(x, weights, which, sources, first, last, out):
    """`out[t, r] = sum_j weights[r, j] x[sources[which[r, j], t]]`, channel by channel."""
    rates, taps = which.shape
    D = np.uint64(x.shape[1])
    flat, kernels = x.reshape(-1), weights.reshape(-1)
    for t in range(first, last):
        for r in range(rates):
            total = out[t, r]
            total[:] = 0
            for j in range(taps):
                source = sources[which[r, j], t]
                if source >= 0:
                    a, w = np.uint64(source) * D, np.uint64(r * taps + j) * D
                    for c in range(D):
                        total[c] += kernels[w + c] * flat[a + c]


@summing
@no_type_check
def depthwise_input_gradient(grad, weights, which, sources, lags, first, last, out):
    """What each token's x gets: from every token that reads it."""
    rates, taps = which.shape
    n, D = grad.shape[0], np.uint64(grad.shape[2])
    flat, kernels = grad.reshape(-1), weights.reshape(-1)
    for u in range(first, last):
        total = out[u]
        total[:] = 0
        for r in range(rates):
            for j in range(taps):
                t = u + lags[which[r, j]]
                if 0 <= t < n and sources[which[r, j], t] == u:
                    g, w = np.uint64(t * rates + r) * D, np.uint64(r * taps + j) * D
                    for c in range(D):
                        total[c] += kernels[w + c] * flat[g + c]


@summing
@no_type_check
def depthwise_weight_gradient(grad, x, which, sources, first, last, out):
    """Channels `first` to `last` of the weights' gradient."""
    rates, taps = which.shape
    D, a_, width = np.uint64(x.shape[1]), np.uint64(first), np.uint64(last - first)
    flat, slopes = x.reshape(-1), grad.reshape(-1)
    out[:, :, first:last] = 0
    for t in range(grad.shape[0]):
        for r in range(rates):
            g = np.uint64(t * rates + r) * D + a_
            for j in range(taps):
                source = sources[which[r, j], t]
                if source >= 0:
                    total, a = out[r, j, first:last], np.uint64(source) * D + a_
                    for c in range(width):
                        total[c] += slopes[g + c] * flat[a + c]


@summing
@no_type_check
def taps_rounded(x, weights, which, sources, first, last, out):
    """`depthwise` whose result is in the bits of bfloat16; three taps that are all there take one pass."""
    rates, taps = which.shape
    D = np.uint64(x.shape[1])
    flat, kernels, found, total = x.reshape(-1), weights.reshape(-1), out.reshape(-1), np.empty(x.shape[1], np.float32)
    for t in range(first, last):
        for r in range(rates):
            o, w = np.uint64(t * rates + r) * D, np.uint64(r * taps) * D
            if taps == 3 and min(sources[which[r, 0], t], sources[which[r, 1], t], sources[which[r, 2], t]) >= 0:
                a = np.uint64(sources[which[r, 0], t]) * D
                b, d = np.uint64(sources[which[r, 1], t]) * D, np.uint64(sources[which[r, 2], t]) * D
                v, u = w + D, w + D + D
                for c in range(D):
                    value = kernels[w + c] * flat[a + c] + (kernels[v + c] * flat[b + c] + kernels[u + c] * flat[d + c])
                    found[o + c] = half(value)
                continue
            total[:] = 0
            for j in range(taps):
                source = sources[which[r, j], t]
                if source >= 0:
                    a, v = np.uint64(source) * D, w + np.uint64(j) * D
                    for c in range(D):
                        total[c] += kernels[v + c] * flat[a + c]
            for c in range(D):
                found[o + c] = half(total[c])


@summing
@no_type_check
def taps_input_gradient(own, grad, weights, which, sources, lags, first, last, out):
    """What each token's x gets: `own`, and from every token that reads it; `grad` in the bits of bfloat16."""
    rates, taps = which.shape
    n, D = own.shape[0], np.uint64(own.shape[1])
    slopes, kernels = grad.reshape(-1), weights.reshape(-1)
    readers, rows = np.empty(rates * taps, np.uint64), np.empty(rates * taps, np.uint64)
    for x in range(first, last):
        count, total = 0, out[x]
        for r in range(rates):
            for j in range(taps):
                t = x + lags[which[r, j]]
                if 0 <= t < n and sources[which[r, j], t] == x:
                    readers[count], rows[count] = np.uint64(t * rates + r) * D, np.uint64(r * taps + j) * D
                    count += 1
        total[:] = own[x]
        q = 0
        while q + 2 < count:
            g, h, i, w, v, u = readers[q], readers[q + 1], readers[q + 2], rows[q], rows[q + 1], rows[q + 2]
            for c in range(D):
                two = kernels[w + c] * wide(slopes[g + c]) + kernels[v + c] * wide(slopes[h + c])
                total[c] += two + kernels[u + c] * wide(slopes[i + c])
            q += 3
        while q < count:
            g, w = readers[q], rows[q]
            for c in range(D):
                total[c] += kernels[w + c] * wide(slopes[g + c])
            q += 1


@summing
@no_type_check
def taps_weight_gradient(grad, x, which, sources, first, last, out):
    """`depthwise_weight_gradient` from slopes in bfloat16 bits; four tokens that all have a source take one pass."""
    rates, taps = which.shape
    D, start, width = np.uint64(x.shape[1]), np.uint64(first), np.uint64(last - first)
    flat, slopes, step = x.reshape(-1), grad.reshape(-1), np.uint64(which.shape[0]) * np.uint64(x.shape[1])
    total = np.zeros(rates * taps * (last - first), np.float32)
    for four in range(0, x.shape[0], 4):
        for r in range(rates):
            for j in range(taps):
                v, source = np.uint64(r * taps + j) * width, sources[which[r, j]]
                g0 = np.uint64(four * rates + r) * D + start
                if (
                    four + 3 < x.shape[0]
                    and min(source[four], source[four + 1], source[four + 2], source[four + 3]) >= 0
                ):
                    a0, a1 = np.uint64(source[four]) * D + start, np.uint64(source[four + 1]) * D + start
                    a2, a3 = np.uint64(source[four + 2]) * D + start, np.uint64(source[four + 3]) * D + start
                    g1, g2, g3 = g0 + step, g0 + step + step, g0 + step + step + step
                    for c in range(width):
                        two = wide(slopes[g0 + c]) * flat[a0 + c] + wide(slopes[g1 + c]) * flat[a1 + c]
                        more = wide(slopes[g2 + c]) * flat[a2 + c] + wide(slopes[g3 + c]) * flat[a3 + c]
                        total[v + c] += two + more
                    continue
                for t in range(four, min(four + 4, x.shape[0])):
                    if source[t] >= 0:
                        a, g = np.uint64(source[t]) * D + start, np.uint64(t * rates + r) * D + start
                        for c in range(width):
                            total[v + c] += wide(slopes[g + c]) * flat[a + c]
    out[:, :, first:last] = total.reshape(rates, taps, last - first)


@loop
@no_type_check
def add_rounded(x, bits, first, last, out):
    """`x` plus rows in the bits of bfloat16."""
    for t in range(first, last):
        for c in range(x.shape[1]):
            out[t, c] = x[t, c] + wide(bits[t, c])


@summing
@no_type_check
def unit_rows(W, first, last, rounded, norms, squares):
    """bfloat16 copies of rows brought to norm 1, their norms (at least 1e-12), and each column's sum of squares."""
    width = np.uint64(W.shape[1])
    squares[:] = 0
    for f in range(first, last):
        norms[f] = max(np.sqrt(dot(W[f], W[f])), W.dtype.type(1e-12))
        inverse, row, out = W.dtype.type(1) / norms[f], W[f], rounded[f]
        for i in range(width):
            unit = row[i] * inverse
            out[i] = half(unit)
            squares[i] += unit * unit


@summing
@no_type_check
def mirror(gram, diagonal):
    """Sum of squares of a symmetric matrix: its diagonal, and what is above it in the bits of bfloat16.

    Afterwards what is below is there too, and the diagonal without its mean, which is not in the sum alone.
    """
    width, energy, mean = gram.shape[0], np.float64(0), diagonal.mean()
    for i in range(width):
        rest = np.float32(0)
        for j in range(i + 1, width):
            rest += wide(gram[i, j]) * wide(gram[i, j])
        energy += diagonal[i] * diagonal[i] + 2 * np.float64(rest)
        for j in range(i):
            gram[i, j] = gram[j, i]
        gram[i, i] = half(np.float32(diagonal[i] - mean))
    return energy


@summing
@no_type_check
def tangent_rows(W, norms, pull, scale, first, last, out):
    """`scale (pull - d <d, pull>) / norm` for each row, d its direction; `pull` in the bits of bfloat16."""
    width = np.uint64(W.shape[1])
    slope = np.empty(W.shape[1], np.float32)
    for f in range(first, last):
        row, bits, total = W[f], pull[f], out[f]
        inverse, along = np.float32(1) / norms[f], np.float32(0)
        for i in range(width):
            slope[i] = wide(bits[i])
            along += slope[i] * row[i]
        along *= inverse * inverse
        for i in range(width):
            total[i] = scale * inverse * (slope[i] - along * row[i])


@loop
@no_type_check
def decode_gradients_pulled(start, place, slots, values, grad, W, norms, pull, scale, first, last, grad_W, grad_values):
    """`decode_gradients` and `tangent_rows` added up, a few rows at a time while they are in cache."""
    for a in range(first, last, 64):
        b = min(a + 64, last)
        tangent_rows(W, norms, pull, scale, a, b, grad_W)
        decode_gradients(start, place, slots, values, grad, W, a, b, False, grad_W, grad_values)


@loop
@no_type_check
def turned(x, first, last, out):
    """`out = x^T` from rows `first` to `last`, a few at a time: they stay in cache while columns are written."""
    rows, width = np.uint64(x.shape[0]), np.uint64(x.shape[1])
    flat, found = x.reshape(-1), out.reshape(-1)
    for start in range(first, last, 32):
        count, place = np.uint64(min(start + 32, last) - start), np.uint64(start) * width
        for c in range(width):
            o = c * rows + np.uint64(start)
            for t in range(count):
                found[o + t] = flat[place + t * width + c]


@loop
@no_type_check
def turned_wide(x, first, last, out):
    """`out = x^T` from columns `first` to `last`, from the bits of bfloat16 to float32."""
    rows, width = np.uint64(x.shape[0]), np.uint64(x.shape[1])
    flat, found = x.reshape(-1), out.reshape(-1)
    for start in range(0, x.shape[0], 32):
        count, place = np.uint64(min(start + 32, x.shape[0]) - start), np.uint64(start) * width
        for c in range(first, last):
            o, a = np.uint64(c) * rows + np.uint64(start), place + np.uint64(c)
            for t in range(count):
                found[o + t] = wide(flat[a + t * width])
