"""TopK of features that look back along the context and are weighed by their place: see `kernels/context.py`.

A token's approximate pre-activations are made from rows of an approximate product, tile by tile in cache, together
with a bound on their error. Never written anywhere are those of a batch.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, float_of, key32, kth_largest, loop, summing, value32
from chronosae.kernels.loops.select import ROUNDED, keep_largest, sort_small

# Relative error of the few float32 operations on each term.
FEW = np.float32(2.0**-20)
LARGEST = np.float32(1e37)


@loop
@no_type_check
def _float(bits, j):
    """The number whose bits stand there: int16 of a bfloat16, int32 of a float32."""
    if bits.itemsize == 2:
        return float_of(np.uint32(np.uint16(bits[j])) << np.uint32(16))
    return float_of(np.uint32(bits[j]))


@loop
@no_type_check
def _float_at(bits, i, j):
    """The same of a table; to take a row of it first would cost more than all else."""
    if bits.itemsize == 2:
        return float_of(np.uint32(np.uint16(bits[i, j])) << np.uint32(16))
    return float_of(np.uint32(bits[i, j]))


@loop
@no_type_check
def _own_part(approx, bias, y):
    for j in range(y.shape[0]):
        y[j] = _float(approx, j) + bias[j]


@summing
@no_type_check
def _earlier_part(approx, taps, y):
    for j in range(y.shape[0]):
        y[j] += taps[j] * _float(approx, j)


@loop
@no_type_check
def _raise(y, maxima):
    for j in range(y.shape[0]):
        maxima[j] = y[j] if y[j] > maxima[j] else maxima[j]


@loop
@no_type_check
def _raise_weighed(y, gates, maxima):
    for j in range(y.shape[0]):
        v = (y[j] if y[j] > 0 else np.float32(0)) * gates[j]
        y[j] = v
        maxima[j] = v if v > maxima[j] else maxima[j]


@loop
@no_type_check
def row_largest(rows, first, last, out):
    """Largest magnitude in each row of float bits."""
    rest = rows.dtype.type(2 ** (8 * rows.itemsize - 1) - 1)
    for r in range(first, last):
        row, most = rows[r], np.zeros(1, rows.dtype)
        for i in range(row.shape[0]):
            most[0] = max(most[0], rows.dtype.type(row[i] & rest))
        out[r] = _float(most, 0)


@loop
@no_type_check
def _kth_at_least(keys, k):
    """A lower bound of the k-th largest, from float32 keys cut to 16 bits."""
    return value32(np.int32(kth_largest(keys, k, np.int64(-32768), np.int64(32767))) << 16)


@summing
@no_type_check
def _four_dots(x, a, b, c, d, W, f, out, m):
    """Inner products of four rows of x with one of W, which is read once."""
    w, A, B, C, D = W[f], x[a], x[b], x[c], x[d]
    p, q, r, s = x.dtype.type(0), x.dtype.type(0), x.dtype.type(0), x.dtype.type(0)
    for i in range(w.shape[0]):
        p += A[i] * w[i]
        q += B[i] * w[i]
        r += C[i] * w[i]
        s += D[i] * w[i]
    out[m], out[m + 1], out[m + 2], out[m + 3] = p, q, r, s


@summing
@no_type_check
def exact_entry(x, W, t, f, bias, taps, sources, products):
    """The pre-activation of token t and feature f, and in `products` what each earlier token's own would be."""
    y, m, lags = dot(x[t], W[f]) + bias[f], 0, taps.shape[0]
    while m < lags:
        if m + 3 < lags and min(sources[m, t], sources[m + 1, t], sources[m + 2, t], sources[m + 3, t]) >= 0:
            _four_dots(x, sources[m, t], sources[m + 1, t], sources[m + 2, t], sources[m + 3, t], W, f, products, m)
            m += 4
            continue
        products[m] = dot(x[sources[m, t]], W[f]) if sources[m, t] >= 0 else x.dtype.type(0)
        m += 1
    for m in range(lags):
        y += taps[m, f] * products[m]
    return y


@loop
@no_type_check
def _weighed(y, gates, f, gated):
    if not gated:
        return y
    # NaN isn't below zero, and stays visible.
    return (np.float32(0) if y < 0 else y) * gates[f]


@loop
@no_type_check
def _write(t, n, k, found, pre, products, weighed, numbers, keys, chosen, best, out):
    """The k largest of n candidates: features, pre-activations, and those of the earlier tokens."""
    indices, values, lagged = out[0], out[1], out[2]
    keep_largest(numbers, weighed, keys, n, k, chosen, best)
    for slot in range(k):
        # A NaN is not equal to zero.
        used, q = best[slot] != 0, chosen[slot]
        indices[t, slot] = found[q] if used else 0
        values[t, slot] = pre[q] if used else np.float32(0)
        for m in range(lagged.shape[2]):
            lagged[t, slot, m] = products[q, m] if used else np.float32(0)


@loop
@no_type_check
def _entry_bounds(approx, rows, f, norms, errors, W_norm, W_error, bias, taps, rounding):
    """A pre-activation from below and above; rows [L + 1]: of approx, -1 for none, the token's own last."""
    lags = taps.shape[0]
    y, e = bias[f], FEW * abs(bias[f])
    for m in range(lags + 1):
        if rows[m] >= 0:
            s = _float_at(approx, rows[m], f)
            w = np.float32(1) if m == lags else taps[m, f]
            y += w * s
            e += abs(w) * ((rounding + FEW) * abs(s) + errors[m] * W_norm[f] + norms[m] * W_error[f])
    return y - e, y + e


@loop
@no_type_check
def choose_in_context(approx, place, tokens, inputs, weights, bias, back, gate, k, groups, first, last, out):
    """TopK of `tokens[first:last]`, whose and whose earlier tokens' rows of `approx` are `place[token]`.

    Groups are interleaved, as in `select`. Each group's largest approximate entry less the largest error in the group
    bounds the k-th largest from below; only groups that may reach it are looked at entry by entry.

    approx: bits of approximate `x W^T` (int16: bfloat16; int32: float32), and with lags each row's largest magnitude.
    inputs: x [N, D], norms, errors; weights: W [F, D], norms, errors: as in `select.choose`; the largest of the two.
    bias: [F], and its largest magnitude. back: taps [L, F], sources [L, N], largest magnitude by group [L, G].
    gate: weights [P, F] (P = 0: no gates), rows [N], largest by group [P, G].
    out: indices, values (pre-activations, not weighed), those of earlier tokens [N, k, L], `undecided`.
    """
    bits, magnitude = approx
    x, x_norms, x_errors = inputs
    W, W_norms, W_errors, worst = weights
    b, b_worst = bias
    taps, sources, tap_worst = back
    gates, gate_rows, gate_worst = gate
    undecided, gated, F, lags = out[3], gates.shape[0] > 0, W.shape[0], taps.shape[0]
    rounding = ROUNDED if bits.itemsize == 2 else FEW
    # Without lags an entry's rounding is a share of the entry itself; with them, of the largest in each row.
    share = rounding + FEW if lags == 0 else np.float32(0)
    room = 4 * k + 128
    y, maxima, error = np.empty(F, np.float32), np.empty(groups, np.float32), np.empty(groups, np.float32)
    group_keys, found = np.empty(groups, np.int16), np.empty(room, np.int32)
    lower, upper = np.empty(room, np.float32), np.empty(room, np.float32)
    pre, weighed, keys = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.int32)
    products, rows = np.empty((room, lags), np.float32), np.empty(lags + 1, np.int64)
    norms, errors = np.empty(lags + 1, np.float32), np.empty(lags + 1, np.float32)
    slack = np.empty(lags + 1, np.float32)
    numbers, chosen, best = np.arange(room), np.empty(k, np.int64), np.empty(k, np.float32)
    for r in range(first, last):
        t = tokens[r]
        sound = True
        for m in range(lags + 1):
            u = t if m == lags else sources[m, t]
            rows[m], norms[m], errors[m], slack[m] = -1, 0, 0, 0
            if u >= 0:
                rows[m], norms[m], errors[m] = place[u], x_norms[u], x_errors[u]
                slack[m] = errors[m] * worst[0] + norms[m] * worst[1]
                if lags > 0:
                    slack[m] += (rounding + FEW) * magnitude[place[u]]
                sound = sound and slack[m] < LARGEST
        undecided[t] = not sound
        if not sound:
            continue
        gate_row = gates[gate_rows[t]] if gated else b
        maxima[:] = -np.inf
        for start in range(0, F, groups):
            n = min(groups, F - start)
            part = y[start : start + n]
            _own_part(bits[rows[lags], start : start + n], b[start : start + n], part)
            for m in range(lags):
                if rows[m] >= 0:
                    _earlier_part(bits[rows[m], start : start + n], taps[m, start : start + n], part)
            if gated:
                _raise_weighed(part, gate_row[start : start + n], maxima[:n])
            else:
                _raise(part, maxima[:n])
        error[:] = slack[lags] + (share + FEW) * b_worst
        for m in range(lags):
            error += tap_worst[m] * slack[m]
        if gated:
            error *= gate_worst[gate_rows[t]]
        for j in range(groups):
            group_keys[j] = key32(maxima[j] - share * abs(maxima[j]) - error[j]) >> 16
        least = max(_kth_at_least(group_keys, k), np.float32(0))
        n = 0
        for j in range(groups):
            if maxima[j] + share * abs(maxima[j]) + error[j] >= least and n >= 0:
                for f in range(j, F, groups):
                    if y[f] + share * abs(y[f]) + error[j] < least or n < 0:
                        continue
                    low, high = _entry_bounds(bits, rows, f, norms, errors, W_norms, W_errors, b, taps, rounding)
                    if gated:
                        low, high = max(low, np.float32(0)) * gate_row[f], max(high, np.float32(0)) * gate_row[f]
                    low, high = low - FEW * abs(low), high + FEW * abs(high)
                    if high >= least and high > 0:
                        if n == room:
                            n = -1
                            continue
                        found[n], lower[n], upper[n] = f, low, high
                        n += 1
        undecided[t] = n < 0
        if n < 0:
            continue
        n = _still_possible(found, lower, upper, keys, n, k)
        sort_small(found, n)
        for q in range(n):
            f = found[q]
            pre[q] = exact_entry(x, W, t, f, b, taps, sources, products[q])
            weighed[q] = _weighed(pre[q], gate_row, f, gated)
        _write(t, n, k, found, pre, products, weighed, numbers, keys, chosen, best, out)


@loop
@no_type_check
def _still_possible(found, lower, upper, keys, n, k):
    """Drop candidates that k others are sure to exceed."""
    if n <= k:
        return n
    for q in range(n):
        keys[q] = key32(lower[q])
    least, kept = value32(kth_largest(keys[:n], k, np.int64(-2147483648), np.int64(2147483647))), 0
    for q in range(n):
        if upper[q] >= least:
            found[kept] = found[q]
            kept += 1
    return kept


@summing
@no_type_check
def scan_in_context(tokens, x, W, bias, back, gate, k, first, last, out):
    """The same by computing every exact pre-activation."""
    taps, sources, _ = back
    gates, gate_rows, _ = gate
    gated, F = gates.shape[0] > 0, W.shape[0]
    every, keys = np.arange(F), np.empty(F, np.int32)
    pre, weighed, products = np.empty(F, np.float32), np.empty(F, np.float32), np.empty((F, taps.shape[0]), np.float32)
    chosen, best = np.empty(k, np.int64), np.empty(k, np.float32)
    for r in range(first, last):
        t = tokens[r]
        gate_row = gates[gate_rows[t]] if gated else bias
        for f in range(F):
            pre[f] = exact_entry(x, W, t, f, bias, taps, sources, products[f])
            weighed[f] = _weighed(pre[f], gate_row, f, gated)
        _write(t, F, k, every, pre, products, weighed, every, keys, chosen, best, out)
        out[3][t] = False


@summing
@no_type_check
def _add_rows(x, terms, coefficients, n, total):
    """`total += sum coefficients x[terms]`, four rows a pass."""
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
    """`out[f] = sum coefficients x[terms]` over the feature's terms."""
    # Unsigned places in the flat table: to make a view of every row would cost more than to add it.
    D, flat = np.uint64(x.shape[1]), x.reshape(-1)
    for f in range(first, last):
        total, q, end = out[f], stride * start[f], ends[f]
        total[:] = 0
        while q + 3 < end:
            a, b, c, d = coefficients[q], coefficients[q + 1], coefficients[q + 2], coefficients[q + 3]
            A = np.uint64(terms[q]) * D
            B = np.uint64(terms[q + 1]) * D
            C = np.uint64(terms[q + 2]) * D
            E = np.uint64(terms[q + 3]) * D
            for i in range(D):
                total[i] += (a * flat[A + i] + b * flat[B + i]) + (c * flat[C + i] + d * flat[E + i])
            q += 4
        while q < end:
            a, A = coefficients[q], np.uint64(terms[q]) * D
            for i in range(D):
                total[i] += a * flat[A + i]
            q += 1


@summing
@no_type_check
def combine_in_context(indices, values, W, taps, sources, lags, first, last, out):
    """`out[u] = sum over slots of u, and over those of later tokens that look back at u, of value (tap) W[index]`."""
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
