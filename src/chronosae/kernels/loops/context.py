"""TopK of features that look back along the context and are weighed by their place: see `kernels/exact_choice.py`.

A token's approximate pre-activations are made from rows of an approximate product, tile by tile in cache, together
with a bound on their error. Never written anywhere are those of a batch.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, float_of, full_width, key32, kth_largest, loop, summing, value32, wide
from chronosae.kernels.loops.select import ROUNDED, exact_dots, keep_largest, likely_first, still_possible

# Relative error of the few float32 operations on each term.
FEW = np.float32(2.0**-20)
LARGEST = np.float32(1e37)


@loop
@no_type_check
def _float(bits, i):
    """The number whose bits stand there: int16 of a bfloat16, int32 of a float32."""
    if bits.itemsize == 2:
        return wide(np.uint16(bits[i]))
    return float_of(np.uint32(bits[i]))


@loop
@no_type_check
def _own_part(bits, row, bias, start, n, y):
    for i in range(n):
        y[start + i] = _float(bits, row + i) + bias[start + i]


@summing
@no_type_check
def _earlier_part(bits, row, taps, tap, y, start, n):
    for i in range(n):
        y[start + i] += taps[tap + i] * _float(bits, row + i)


@summing
@no_type_check
def _own_and_four_earlier_parts(bits, own, a, b, c, d, taps, tap, F, bias, start, n, y):
    """Five rows in one pass; the taps of the four lags are F places apart."""
    full_width()
    tap_b, tap_c, tap_d = tap + F, tap + F + F, tap + F + F + F
    for i in range(n):
        earlier = taps[tap + i] * _float(bits, a + i) + taps[tap_b + i] * _float(bits, b + i)
        later = taps[tap_c + i] * _float(bits, c + i) + taps[tap_d + i] * _float(bits, d + i)
        y[start + i] = (_float(bits, own + i) + bias[start + i]) + (earlier + later)


@loop
@no_type_check
def _raise(y, start, n, maxima):
    for i in range(n):
        v = y[start + i]
        maxima[i] = v if v > maxima[i] else maxima[i]


@loop
@no_type_check
def _raise_weighed(y, start, n, scales, scale, maxima):
    for i in range(n):
        v = (y[start + i] if y[start + i] > 0 else np.float32(0)) * scales[scale + i]
        y[start + i] = v
        maxima[i] = v if v > maxima[i] else maxima[i]


@loop
@no_type_check
def _own_part_weighed(bits, row, bias, start, n, scales, scale, y, maxima):
    for i in range(n):
        v = _float(bits, row + i) + bias[start + i]
        v = (v if v > 0 else np.float32(0)) * scales[scale + i]
        y[start + i] = v
        maxima[i] = v if v > maxima[i] else maxima[i]


@loop
@no_type_check
def _approximate(bits, rows, bias, taps, scales, scale_row, groups, y, maxima):
    """What is compared, from rows of an approximate product (the token's own last, -1: none); largest by group."""
    full_width()
    lags, F, width = taps.shape[0], np.uint64(y.shape[0]), np.uint64(groups)
    flat, flat_taps, flat_scales = bits.reshape(-1), taps.reshape(-1), scales.reshape(-1)
    fused = lags == 4 and rows.min() >= 0
    scaled, start = scales.shape[0] > 0, np.uint64(0)
    maxima[:] = -np.inf
    while start < F:
        n, own, scale = min(width, F - start), np.uint64(rows[lags]) * F + start, np.uint64(scale_row) * F + start
        if lags == 0 and scaled:
            _own_part_weighed(flat, own, bias, start, n, flat_scales, scale, y, maxima)
            start += width
            continue
        if fused:
            a, b = np.uint64(rows[0]) * F + start, np.uint64(rows[1]) * F + start
            c, d = np.uint64(rows[2]) * F + start, np.uint64(rows[3]) * F + start
            _own_and_four_earlier_parts(flat, own, a, b, c, d, flat_taps, start, F, bias, start, n, y)
        else:
            _own_part(flat, own, bias, start, n, y)
            for m in range(lags):
                if rows[m] >= 0:
                    _earlier_part(
                        flat, np.uint64(rows[m]) * F + start, flat_taps, np.uint64(m) * F + start, y, start, n
                    )
        if scaled:
            _raise_weighed(y, start, n, flat_scales, scale, maxima)
        else:
            _raise(y, start, n, maxima)
        start += width


@loop
@no_type_check
def _magnitude(bits, row, known):
    """Largest magnitude in a row; looked up in `known` (negative: not yet) or written there."""
    full_width()
    if known[row] < 0:
        flat, F, most = bits.reshape(-1), np.uint64(bits.shape[1]), np.zeros(1, bits.dtype)
        rest, start = bits.dtype.type(2 ** (8 * bits.itemsize - 1) - 1), np.uint64(row) * np.uint64(bits.shape[1])
        largest = bits.dtype.type(0)
        for i in range(F):
            largest = max(largest, bits.dtype.type(flat[start + i] & rest))
        most[0] = largest
        known[row] = _float(most, 0)
    return known[row]


@loop
@no_type_check
def largest_by_group(rows, out):
    """Bits of the largest magnitude among the entries j, j + G, j + 2G ... of each row of float32 bits; NaN is largest.

    rows [R, F]; out [R, G].
    """
    F, G, flat, flat_out = np.uint64(rows.shape[1]), np.uint64(out.shape[1]), rows.reshape(-1), out.reshape(-1)
    for r in range(rows.shape[0]):
        to, start = np.uint64(r) * G, np.uint64(0)
        out[r] = 0
        while start < F:
            row = np.uint64(r) * F + start
            for i in range(min(G, F - start)):
                flat_out[to + i] = max(flat_out[to + i], flat[row + i] & np.int32(0x7FFFFFFF))
            start += G


@loop
@no_type_check
def _kth_at_least(maxima, error, share, keys, k):
    """A lower bound on the k-th largest, from float32 keys cut to 16 bits."""
    for j in range(keys.shape[0]):
        keys[j] = key32(maxima[j] - share * abs(maxima[j]) - error[j]) >> 16
    return value32(np.int32(kth_largest(keys, k, np.int64(0), np.int64(32767))) << 16)


@loop
@no_type_check
def _those_above(y, maxima, error, share, least, found, upper):
    """Entries that may reach `least` by their group's error; how many, or -1 when there are more than is room for."""
    F, groups, n = y.shape[0], maxima.shape[0], 0
    for j in range(groups):
        if maxima[j] + share * abs(maxima[j]) + error[j] >= least:
            # Below what solves the same for y, by more than rounding; an entry too many costs time alone.
            cut = least - error[j]
            cut -= np.float32(1.1) * share * abs(cut) + FEW * (abs(least) + error[j])
            for f in range(j, F, groups):
                if y[f] >= cut:
                    if n == found.shape[0]:
                        return -1
                    found[n], upper[n] = f, y[f]
                    n += 1
    return n


@loop
@no_type_check
def _bounds(found, n, token, weights, bias, taps, scales, scale_row, share, lower, upper):
    """Of each candidate from below and above; `upper` holds their approximate values. Those above zero are kept.

    token: norms, errors, magnitudes [L + 1] of the rows it looks at, its own last.
    """
    norms, errors, magnitudes = token
    W_norms, W_errors = weights
    lags, kept = taps.shape[0], 0
    for q in range(n):
        f, y = found[q], upper[q]
        x_error, x_norm, rest = errors[lags], norms[lags], np.float32(0)
        for m in range(lags):
            tap = abs(taps[m, f])
            x_error += tap * errors[m]
            x_norm += tap * norms[m]
            rest += tap * magnitudes[m]
        # The own product is no larger than the entry, the bias and what the earlier ones add.
        e = x_error * W_norms[f] + x_norm * W_errors[f] + share * (abs(bias[f]) + rest + rest)
        e = (e if scales.shape[0] == 0 else e * scales[scale_row, f]) + share * abs(y)
        if y + e > 0:
            found[kept], lower[kept], upper[kept] = f, y - e, y + e
            kept += 1
    return kept


@summing
@no_type_check
def _four_lags(x, W, t, found, first, last, bias, taps, a, b, c, d, pre, products):
    """Entries of a token whose four earlier ones are `a, b, c, d`: two rows of W at a time with all five of x.

    The last of an odd number is computed twice: another loop might sum in another order.
    """
    full_width()
    # Unsigned places in flat tables: a view of every row would cost time.
    D, flat, rows = np.uint64(x.shape[1]), x.reshape(-1), W.reshape(-1)
    T, A, B, C, E = np.uint64(t) * D, np.uint64(a) * D, np.uint64(b) * D, np.uint64(c) * D, np.uint64(d) * D
    zero = x.dtype.type(0)
    for n in range(first, last, 2):
        m = min(n + 1, last - 1)
        F, G = np.uint64(found[n]) * D, np.uint64(found[m]) * D
        f_t, f_a, f_b, f_c, f_d = zero, zero, zero, zero, zero
        g_t, g_a, g_b, g_c, g_d = zero, zero, zero, zero, zero
        for i in range(D):
            f, g = rows[F + i], rows[G + i]
            f_t += flat[T + i] * f
            f_a += flat[A + i] * f
            f_b += flat[B + i] * f
            f_c += flat[C + i] * f
            f_d += flat[E + i] * f
            g_t += flat[T + i] * g
            g_a += flat[A + i] * g
            g_b += flat[B + i] * g
            g_c += flat[C + i] * g
            g_d += flat[E + i] * g
        products[n, 0], products[n, 1], products[n, 2], products[n, 3], pre[n] = f_a, f_b, f_c, f_d, f_t
        products[m, 0], products[m, 1], products[m, 2], products[m, 3], pre[m] = g_a, g_b, g_c, g_d, g_t
    for n in range(first, last):
        f = found[n]
        pre[n] += bias[f]
        for m in range(4):
            pre[n] += taps[m, f] * products[n, m]


@summing
@no_type_check
def exact_entries(x, W, t, found, first, last, bias, taps, sources, pre, products):
    """Pre-activations of candidates `first:last` of token t; in `products` what each earlier token's own would be."""
    full_width()
    lags = taps.shape[0]
    if lags == 4:
        a, b, c, d = sources[0, t], sources[1, t], sources[2, t], sources[3, t]
        if min(a, b, c, d) >= 0:
            _four_lags(x, W, t, found, first, last, bias, taps, a, b, c, d, pre, products)
            return
    exact_dots(x, t, W, bias, found, first, last, pre)
    for q in range(first, last):
        f = found[q]
        for m in range(lags):
            products[q, m] = dot(x[sources[m, t]], W[f]) if sources[m, t] >= 0 else x.dtype.type(0)
            pre[q] += taps[m, f] * products[q, m]


@loop
@no_type_check
def _exact(x, W, t, found, first, last, bias, taps, sources, scales, scale_row, pre, weighed, products):
    """Candidates `first:last`: pre-activations, what is compared, and what the earlier tokens' own would be."""
    full_width()
    exact_entries(x, W, t, found, first, last, bias, taps, sources, pre, products)
    for q in range(first, last):
        weighed[q] = pre[q]
        if scales.shape[0] > 0:
            # NaN isn't below zero, and stays visible.
            weighed[q] = (np.float32(0) if pre[q] < 0 else pre[q]) * scales[scale_row, found[q]]


@loop
@no_type_check
def _write(t, n, k, found, pre, products, weighed, keys, kept, out):
    """The k largest of n candidates: features, pre-activations, and those of the earlier tokens."""
    indices, values, lagged = out[0], out[1], out[2]
    spare = k - keep_largest(found, weighed, keys, n, k, kept)
    for slot in range(k):
        if slot < spare:
            indices[t, slot], values[t, slot] = 0, 0
            lagged[t, slot] = 0
            continue
        q = kept[slot - spare] & 0xFFFFFFFF
        indices[t, slot], values[t, slot] = found[q], pre[q]
        for m in range(lagged.shape[2]):
            lagged[t, slot, m] = products[q, m]


@loop
@no_type_check
def choose_in_context(approx, place, tokens, inputs, weights, bias, back, scale, k, groups, first, last, out):
    """TopK of `tokens[first:last]`, whose and whose earlier tokens' rows of `approx` are `place[token]`.

    Groups are interleaved, as in `select`. Each group's largest approximate entry less the largest error in the group
    bounds the k-th largest from below; only groups that may reach it are looked at entry by entry.

    approx: bits of approximate `x W^T` (int16: bfloat16; int32: float32), and room for each row's largest magnitude,
        negative where it isn't known yet.
    inputs: x [N, D], norms, errors; weights: W [F, D], norms, errors, and the largest of the two. An error is what the
        approximation may have lost of a row: |x . w - approx| <= x_error w_norm + x_norm w_error, and for bfloat16 the
        rounding of the result.
    bias: [F], and its largest magnitude. back: taps [L, F], sources [L, N], largest magnitude by group [L, G].
    scale: weights by place [P, F] (P = 0: none), rows [N], largest by group [P, G].
    out: indices, values (pre-activations, not weighed), those of earlier tokens [N, k, L], `undecided`.
    """
    full_width()
    bits, magnitude = approx
    x, x_norms, x_errors = inputs
    W, W_norms, W_errors, worst = weights
    b, b_worst = bias
    taps, sources, tap_worst = back
    scales, scale_rows, scale_worst = scale
    undecided, scaled, F, lags = out[3], scales.shape[0] > 0, W.shape[0], taps.shape[0]
    share = (ROUNDED if bits.itemsize == 2 else FEW) + FEW
    room = 4 * k + 128
    y, maxima, error = np.empty(F, np.float32), np.empty(groups, np.float32), np.empty(groups, np.float32)
    group_keys, found = np.empty(groups, np.int16), np.empty(room, np.int32)
    lower, upper = np.empty(room, np.float32), np.empty(room, np.float32)
    pre, weighed, keys = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.int32)
    products, rows, kept = np.empty((room, lags), np.float32), np.empty(lags + 1, np.int64), np.empty(k, np.int64)
    norms, errors = np.empty(lags + 1, np.float32), np.empty(lags + 1, np.float32)
    magnitudes, slack = np.empty(lags + 1, np.float32), np.empty(lags + 1, np.float32)
    for r in range(first, last):
        t = tokens[r]
        sound = True
        for m in range(lags + 1):
            u = t if m == lags else sources[m, t]
            rows[m], norms[m], errors[m], magnitudes[m], slack[m] = -1, 0, 0, 0, 0
            if u >= 0:
                rows[m], norms[m], errors[m] = place[u], x_norms[u], x_errors[u]
                slack[m] = errors[m] * worst[0] + norms[m] * worst[1]
                if lags > 0:
                    # The token's own too: it comes into the cache once, and later tokens look at it.
                    magnitudes[m] = _magnitude(bits, place[u], magnitude)
                if m < lags:
                    slack[m] += np.float32(2) * share * magnitudes[m]
                sound = sound and slack[m] < LARGEST
        undecided[t] = not sound
        if not sound:
            continue
        scale_row = scale_rows[t] if scaled else np.int64(0)
        _approximate(bits, rows, b, taps, scales, scale_row, groups, y, maxima)
        error[:] = slack[lags] + share * b_worst
        for m in range(lags):
            for j in range(groups):
                error[j] += tap_worst[m, j] * slack[m]
        if scaled:
            for j in range(groups):
                error[j] *= scale_worst[scale_row, j]
        least = _kth_at_least(maxima, error, share, group_keys, k)
        n = _those_above(y, maxima, error, share, least, found, upper)
        undecided[t] = n < 0
        if n < 0:
            continue
        token = norms, errors, magnitudes
        n = _bounds(found, n, token, (W_norms, W_errors), b, taps, scales, scale_row, share, lower, upper)
        sure, n = likely_first(found, lower, upper, keys, n, k)
        _exact(x, W, t, found, 0, sure, b, taps, sources, scales, scale_row, pre, weighed, products)
        if sure < n:
            n = still_possible(found, upper, sure, n, weighed[:sure].min())
            _exact(x, W, t, found, sure, n, b, taps, sources, scales, scale_row, pre, weighed, products)
        _write(t, n, k, found, pre, products, weighed, keys, kept, out)


@loop
@no_type_check
def scan_in_context(tokens, x, W, bias, back, scale, k, first, last, out):
    """The same by computing every exact pre-activation."""
    full_width()
    taps, sources, _ = back
    scales, scale_rows, _ = scale
    F = W.shape[0]
    every, keys, kept = np.arange(F), np.empty(F, np.int32), np.empty(k, np.int64)
    pre, weighed, products = np.empty(F, np.float32), np.empty(F, np.float32), np.empty((F, taps.shape[0]), np.float32)
    for r in range(first, last):
        t = tokens[r]
        scale_row = scale_rows[t] if scales.shape[0] > 0 else np.int64(0)
        _exact(x, W, t, every, 0, F, bias, taps, sources, scales, scale_row, pre, weighed, products)
        _write(t, F, k, every, pre, products, weighed, keys, kept, out)
        out[3][t] = False
