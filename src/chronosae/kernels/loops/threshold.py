"""Every entry that may exceed a threshold, the threshold being one for all rows."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, full_width, loop, summing, value16, value32
from chronosae.kernels.loops.select import ROUNDED, above, group_maxima, sort_small


@loop
@no_type_check
def lower_bounds(approx, rows, x_norms, x_errors, worst, first, last, maxima, bounds):
    """Maxima of groups of approximate entries of each row, and what the exact entry behind each is at least."""
    rounding = ROUNDED if approx.itemsize == 2 else np.float32(0)
    for r in range(first, last):
        slack = x_errors[rows[r]] * worst[0] + x_norms[rows[r]] * worst[1]
        group_maxima(approx[r], maxima[r])
        for j in range(maxima.shape[1]):
            v = value16(maxima[r, j]) if approx.itemsize == 2 else value32(maxima[r, j])
            bounds[r, j] = v - rounding * abs(v) - slack


@summing
@no_type_check
def collect(approx, rows, x, x_norms, x_errors, W, worst, bias, least, maxima, first, last, found, exact, counts):
    """Exact entries of all that may be `least` or more, indices ascending; a count of -1 where there is no room."""
    full_width()
    rounding = ROUNDED if approx.itemsize == 2 else np.float32(0)
    for r in range(first, last):
        t = rows[r]
        cut = least - (x_errors[t] * worst[0] + x_norms[t] * worst[1])
        n = above(approx[r], maxima[r], cut - rounding * abs(cut), found[r])
        counts[r] = n
        if n > 0:
            sort_small(found[r], n)
            for q in range(n):
                exact[r, q] = dot(x[t], W[found[r, q]]) + bias[found[r, q]]


@loop
@no_type_check
def kept_counts(exact, counts, threshold, kept):
    """How many positive entries of each row reach the threshold."""
    for r in range(counts.shape[0]):
        kept[r] = 0
        for q in range(counts[r]):
            kept[r] += np.int64(exact[r, q] >= threshold and exact[r, q] > 0)


@loop
@no_type_check
def write_kept(rows, found, exact, counts, kept, threshold, indices, values):
    """These entries in slots, after the unused ones."""
    for r in range(counts.shape[0]):
        t, slot = rows[r], indices.shape[1] - kept[r]
        for q in range(counts[r]):
            if exact[r, q] >= threshold and exact[r, q] > 0:
                indices[t, slot], values[t, slot] = found[r, q], exact[r, q]
                slot += 1
