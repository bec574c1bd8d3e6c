"""One pass over the inputs where torch would make several, each with a tensor of its own."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import float_of, loop, summing


@loop
@no_type_check
def centred(x, centre, active, first, last, out):
    """`x - centre` for active tokens, zero for the others."""
    for t in range(first, last):
        if active[t]:
            for i in range(x.shape[1]):
                out[t, i] = x[t, i] - centre[i]
        else:
            out[t] = 0


@summing
@no_type_check
def squared_distance(x, y, active, first, last, out):
    """`||x_t - y_t||^2` for active tokens, zero for the others."""
    for t in range(first, last):
        out[t] = 0
        if active[t]:
            total = x.dtype.type(0)
            for i in range(x.shape[1]):
                rest = x[t, i] - y[t, i]
                total += rest * rest
            out[t] = total


@loop
@no_type_check
def scaled_difference(x, y, active, scale, first, last, out):
    """`scale (y_t - x_t)` for active tokens, zero for the others."""
    for t in range(first, last):
        if active[t]:
            for i in range(x.shape[1]):
                out[t, i] = scale * (y[t, i] - x[t, i])
        else:
            out[t] = 0


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
                found[o + t] = float_of(np.uint32(flat[a + t * width]) << np.uint32(16))
