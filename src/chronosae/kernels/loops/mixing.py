"""Depthwise taps over earlier and later tokens, and rows between float32 and bfloat16."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, float_of, summing


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
def unit_rows(W, first, last, rounded, norms):
    """bfloat16 copies of rows brought to norm 1, and their norms (at least 1e-12)."""
    width = np.uint64(W.shape[1])
    for f in range(first, last):
        norms[f] = max(np.sqrt(dot(W[f], W[f])), W.dtype.type(1e-12))
        inverse, row, out = W.dtype.type(1) / norms[f], W[f], rounded[f]
        scaled = np.empty(W.shape[1], np.float32)
        for i in range(width):
            scaled[i] = row[i] * inverse
        words = scaled.view(np.uint32)
        for i in range(width):
            u = words[i]
            out[i] = np.uint16((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


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
            slope[i] = float_of(np.uint32(bits[i]) << np.uint32(16))
            along += slope[i] * row[i]
        along *= inverse * inverse
        for i in range(width):
            total[i] = scale * inverse * (slope[i] - along * row[i])
