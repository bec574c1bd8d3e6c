"""The k largest of every row without sorting the row.

Floats are compared as integers of the same order, so that one pass of vector instructions finds the maxima of G
interleaved groups. The k-th largest of these is reached by at least k entries: a lower bound on the row's k-th largest.
Few entries lie above it, and only in groups whose maximum does.

A threshold that is one for all rows is found and applied the same way.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, full_width, key32, kth_largest, loop, summing, value16, value32

# Relative error of rounding to bfloat16 (8 significant bits), towards the rounded value or from it.
ROUNDED = np.float32(2.0**-8 * 1.01)


@loop
@no_type_check
def group_maxima(row, maxima):
    """Largest ordered key of the entries j, j + G, j + 2G ... of a row of float bits, for each j."""
    n, sign, rest = (
        maxima.shape[0],
        row.dtype.type(8 * row.itemsize - 1),
        row.dtype.type(2 ** (8 * row.itemsize - 1) - 1),
    )
    for j in range(n):
        maxima[j] = row.dtype.type(-rest - 1)
    for start in range(0, row.shape[0], n):
        part = row[start : start + n]
        for j in range(part.shape[0]):
            v = part[j]
            maxima[j] = max(maxima[j], row.dtype.type(v ^ ((v >> sign) & rest)))


@loop
@no_type_check
def above(row, maxima, cut, found):
    """Indices of the entries of value >= cut, in `found`; their number, or -1 when there are more than it can hold."""
    groups, sign = maxima.shape[0], row.dtype.type(8 * row.itemsize - 1)
    rest = row.dtype.type(2 ** (8 * row.itemsize - 1) - 1)
    # Rounded down where a key has fewer bits: an entry too many costs time alone.
    lowest = key32(cut) >> (32 - 8 * row.itemsize)
    n = 0
    for j in range(groups):
        if maxima[j] >= lowest:
            for i in range(j, row.shape[0], groups):
                v = row[i]
                if (v ^ ((v >> sign) & rest)) >= lowest:
                    if n == found.shape[0]:
                        return -1
                    found[n] = i
                    n += 1
    return n


@loop
@no_type_check
def sort_small(a, n):
    """Ascending, in place; insertion is fastest for the few that are left of a row."""
    if n > 128:
        a[:n] = np.sort(a[:n])
        return
    for i in range(1, n):
        x, j = a[i], i
        while j > 0 and a[j - 1] > x:
            a[j] = a[j - 1]
            j -= 1
        a[j] = x


@loop
@no_type_check
def keep_largest(found, exact, keys, n, k, kept):
    """The k largest positive of n candidates, in `kept` as `place among the candidates + 2^32 feature`, by feature.

    Of equal ones the first feature is taken, in whatever order they stand. NaN counts as largest. Returns how many.
    """
    for q in range(n):
        keys[q] = np.int32(2147483647) if np.isnan(exact[q]) else key32(exact[q])
    threshold = np.int32(1)
    if n > k:
        threshold = max(kth_largest(keys[:n], k, np.int64(0), np.int64(2147483647)), np.int32(1))
    count, equals = 0, 0
    for q in range(n):
        equals += np.int32(keys[q] == threshold)
        if keys[q] > threshold:
            kept[count] = (np.int64(found[q]) << 32) | q
            count += 1
    equals, last = min(equals, k - count), np.int64(-1)
    for _ in range(equals):
        best = np.int64(9223372036854775807)
        for q in range(n):
            packed = (np.int64(found[q]) << 32) | q
            if keys[q] == threshold and last < packed < best:
                best = packed
        kept[count], last = best, best
        count += 1
    sort_small(kept, count)
    return count


@loop
@no_type_check
def write_largest(found, exact, keys, n, k, kept, indices, values):
    """Features and values of the k largest positive candidates, after the unused slots (0, 0)."""
    spare = k - keep_largest(found, exact, keys, n, k, kept)
    indices[:spare] = 0
    values[:spare] = 0
    for slot in range(spare, k):
        packed = kept[slot - spare]
        indices[slot], values[slot] = packed >> 32, exact[packed & 0xFFFFFFFF]


@loop
@no_type_check
def likely_first(found, lower, upper, keys, n, k):
    """Put k candidates (more if equal) with the largest lower bounds first; drop those which k others surely exceed.

    Returns how many come first, and how many are left in all. Once the first are known exactly, the smallest of them
    is a better bound on the k-th largest than any of these.
    """
    if n <= k:
        return n, n
    for q in range(n):
        keys[q] = key32(lower[q])
    least, first = value32(kth_largest(keys[:n], k, np.int64(-2147483648), np.int64(2147483647))), 0
    for q in range(n):
        if lower[q] >= least:
            found[q], found[first] = found[first], found[q]
            upper[q], upper[first] = upper[first], upper[q]
            lower[q], lower[first] = lower[first], lower[q]
            first += 1
    return first, still_possible(found, upper, first, n, least)


@loop
@no_type_check
def still_possible(found, upper, first, n, least):
    """Keep those candidates of `first..n` that may reach `least`; how many there are then."""
    kept = first
    for q in range(first, n):
        if upper[q] >= least:
            found[kept], upper[kept] = found[q], upper[q]
            kept += 1
    return kept


@summing
@no_type_check
def exact_dots(x, t, W, bias, found, first, last, exact):
    """Pre-activations of one token: inner products four at a time, each summed in the order of `dot`."""
    full_width()
    # Unsigned places in flat tables: a view of every row would cost time.
    D, flat, rows, q = np.uint64(x.shape[1]), x.reshape(-1), W.reshape(-1), first
    T = np.uint64(t) * D
    while q + 3 < last:
        A, B = np.uint64(found[q]) * D, np.uint64(found[q + 1]) * D
        C, E = np.uint64(found[q + 2]) * D, np.uint64(found[q + 3]) * D
        a, b, c, e = x.dtype.type(0), x.dtype.type(0), x.dtype.type(0), x.dtype.type(0)
        for i in range(D):
            v = flat[T + i]
            a += v * rows[A + i]
            b += v * rows[B + i]
            c += v * rows[C + i]
            e += v * rows[E + i]
        exact[q], exact[q + 1], exact[q + 2], exact[q + 3] = a, b, c, e
        q += 4
    while q < last:
        exact[q] = dot(x[t], W[found[q]])
        q += 1
    for q in range(first, last):
        exact[q] += bias[found[q]]


@loop
@no_type_check
def largest(row_bits, row_values, k, groups, first, last, indices, values):
    """The k largest positive entries of given float32 rows, NaN counting as largest."""
    n = row_bits.shape[1]
    maxima, found = np.empty(groups, np.int32), np.empty(4 * k + 128, np.int32)
    exact, keys, kept = np.empty(4 * k + 128, np.float32), np.empty(4 * k + 128, np.int32), np.empty(k, np.int64)
    for t in range(first, last):
        row = row_bits[t]
        odd = np.int32(0)
        for i in range(n):
            odd |= np.int32((row[i] & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000))
        count = -1
        if not odd:
            group_maxima(row, maxima)
            reached = kth_largest(maxima, k, np.int64(0), np.int64(2147483647))
            count = above(row, maxima, value32(reached), found)
        if count < 0:
            write_largest(np.arange(n), row_values[t], np.empty(n, np.int32), n, k, kept, indices[t], values[t])
            continue
        for q in range(count):
            exact[q] = row_values[t, found[q]]
        write_largest(found, exact, keys, count, k, kept, indices[t], values[t])


@loop
@no_type_check
def rectify_largest(rows, k, first, last, out):
    """`out[t]`: the k largest positive entries of the row in their places; of equal ones the first, NaN as largest."""
    width = rows.shape[1]
    keys = np.empty(width, np.int32)
    for t in range(first, last):
        row, kept = rows[t], out[t]
        for i in range(width):
            keys[i] = np.int32(2147483647) if np.isnan(row[i]) else key32(row[i])
        threshold = np.int32(1)
        if width > k:
            threshold = max(kth_largest(keys, k, np.int64(0), np.int64(2147483647)), np.int32(1))
        spare = k
        for i in range(width):
            spare -= np.int32(keys[i] > threshold)
        for i in range(width):
            kept[i] = row[i] if keys[i] > threshold else rows.dtype.type(0)
        for i in range(width):
            if spare <= 0:
                break
            if keys[i] == threshold:
                kept[i] = row[i]
                spare -= 1


@loop
@no_type_check
def lower_bounds(approx, rows, x_norms, x_errors, worst, first, last, maxima, bounds):
    """Maxima of groups of approximate entries of each row, and what the exact entry behind each is at least."""
    for r in range(first, last):
        slack = x_errors[rows[r]] * worst[0] + x_norms[rows[r]] * worst[1]
        group_maxima(approx[r], maxima[r])
        for j in range(maxima.shape[1]):
            v = value16(maxima[r, j])
            bounds[r, j] = v - ROUNDED * abs(v) - slack


@summing
@no_type_check
def collect(approx, rows, x, x_norms, x_errors, W, worst, bias, least, maxima, first, last, found, exact, counts):
    """Exact entries of all that may be `least` or more, indices ascending; a count of -1 where there is no room."""
    full_width()
    for r in range(first, last):
        t = rows[r]
        cut = least - (x_errors[t] * worst[0] + x_norms[t] * worst[1])
        n = above(approx[r], maxima[r], cut - ROUNDED * abs(cut), found[r])
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
