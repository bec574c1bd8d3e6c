"""One pass over rows while they are in cache: squared distances, normal noise, the optimiser's step.

The noise is a function of a key and a place alone: any thread may make any part of it.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import bits_of, dot, float_of, full_width, loop, summing, wide


def _constants(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)


STEP, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ONE, LOW = np.uint64(1), np.uint64(0xFFFFFFFF)
LOG2, UNIT = np.float32(0.6931471805599453), np.float32(2.0**-31)
# Minimax fits, good to 2e-7: log(1 + m) / m between sqrt(1/2) and sqrt(2), sin(pi x / 2) / x and cos(pi x / 2) in x^2.
LOG = _constants(1.0, -0.50000364, 0.33335114, -0.24970071, 0.19898565, -0.17247014, 0.16234189, -0.10134057)
SINE = _constants(1.57079637, -0.64596379, 0.07968992, -0.00467415, 0.00015167)
COSINE = _constants(1.0, -1.23369825, 0.25365070, -0.02081057, 0.00085816)


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
def scrambled(z):
    """64 bits that look random, from a counter (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


@loop
@no_type_check
def minus_log(word):
    """`-log((word + 1/2) / 2^32)`, at least 0."""
    bits = np.int32(bits_of(np.float32(word) + np.float32(0.5)))
    # Mantissas from sqrt(1/2) to sqrt(2).
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    m = float_of(np.uint32(bits - (exponent << np.int32(23)))) - np.float32(1)
    high = LOG[4] + m * (LOG[5] + m * (LOG[6] + m * LOG[7]))
    log = m * (LOG[0] + m * (LOG[1] + m * (LOG[2] + m * (LOG[3] + m * high))))
    return max(np.float32(32 - exponent) * LOG2 - log, np.float32(0))


@summing
@no_type_check
def add_normal(x, keys, level, first, last, out):
    """`x + level * noise` for rows `first` to `last` of all sequences, each of which has a key.

    Two numbers from one counter (Box and Muller 1958): those of channels c and c + half a row.
    """
    rows, width = x.shape[0] // keys.shape[0], x.shape[1]
    half = np.uint64((width + 1) // 2)
    noise = np.empty(2 * ((width + 1) // 2), np.float32)
    for t in range(first, last):
        start = scrambled(keys[t // rows]) + np.uint64(t % rows) * half * STEP
        for c in range(half):
            z = scrambled(start + (c + ONE) * STEP)
            radius = level * np.sqrt(np.float32(2) * minus_log(np.uint32(z >> np.uint64(32))))
            turn = np.float32(np.int32(np.uint32(z & LOW))) * UNIT
            q = turn * turn
            sine = turn * (SINE[0] + q * (SINE[1] + q * (SINE[2] + q * (SINE[3] + q * SINE[4]))))
            cosine = COSINE[0] + q * (COSINE[1] + q * (COSINE[2] + q * (COSINE[3] + q * COSINE[4])))
            # Of twice the angle.
            noise[c] = radius * (np.float32(1) - np.float32(2) * sine * sine)
            noise[half + c] = radius * (np.float32(2) * sine * cosine)
        for c in range(width):
            out[t, c] = x[t, c] + noise[c]


@summing
@no_type_check
def gradient_energy(grad, weights, on_sphere, first, last, energy, along):
    """Squared norm of each row's gradient; on the sphere, of what is at right angles to the row, and the other part."""
    full_width()
    for r in range(first, last):
        energy[r], along[r] = dot(grad[r], grad[r]), grad.dtype.type(0)
        if on_sphere:
            a, w = dot(grad[r], weights[r]), dot(weights[r], weights[r])
            along[r] = a
            # Below zero by rounding alone; a NaN stays.
            rest = energy[r] - a * a * (2 - w)
            energy[r] = grad.dtype.type(0) if rest < 0 else rest


@summing
@no_type_check
def adamw(weights, grad, mean, square, along, on_sphere, scale, rates, first, last):
    """One step of AdamW on `scale * (grad - along weights)`; on the sphere, rows end with norm 1.

    rates: lr / (1 - beta1^t), beta1, 1 - beta1, beta2, 1 - beta2, 1 / sqrt(1 - beta2^t), eps, 1 - lr weight_decay.
    """
    # Beside a whole number of Python's, float32 would become float64.
    width, one = weights.shape[1], weights.dtype.type(1)
    step, beta1, rest1, beta2, rest2, inverse, eps, keep = rates
    for r in range(first, last):
        w, g, m, v, a = weights[r], grad[r], mean[r], square[r], along[r]
        total = weights.dtype.type(0)
        for i in range(width):
            slope = scale * (g[i] - a * w[i])
            m[i] = beta1 * m[i] + rest1 * slope
            v[i] = beta2 * v[i] + rest2 * slope * slope
            new = keep * w[i] - step * m[i] / (np.sqrt(v[i]) * inverse + eps)
            w[i] = new
            total += new * new
        if on_sphere:
            factor = one / max(np.sqrt(total), weights.dtype.type(1e-12))
            for i in range(width):
                w[i] *= factor


@loop
@no_type_check
def noise(place, step):
    """32 bits that look random, a function of the place and the step (the mixing of MurmurHash3)."""
    # A product of two 32-bit numbers is one of 64 here: cut it at once.
    bits = np.uint32(np.uint32(place) * np.uint32(0x9E3779B1)) ^ np.uint32(np.uint32(step) * np.uint32(0x85EBCA6B))
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    bits = np.uint32(np.uint32(bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@loop
@no_type_check
def _half(value, low):
    """The bits of a bfloat16 next to `value`, the upper or the lower one as the 16 random bits `low` say."""
    bits = np.uint32(bits_of(value))
    finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    return np.uint16((bits + (low if finite else np.uint32(0))) >> np.uint32(16))


@summing
@no_type_check
def adamw_rounded(weights, grad, mean, square, along, on_sphere, scale, rates, step_number, first, last):
    """The same with moments in bfloat16 (their bits), rounded at random: to nearest, slow means would never move."""
    width = np.uint32(weights.shape[1])
    step, beta1, rest1, beta2, rest2, inverse, eps, keep = rates
    for r in range(first, last):
        w, g, m, v, a = weights[r], grad[r], mean[r], square[r], along[r]
        total, row = np.float32(0), np.uint32(r) * width
        for i in range(weights.shape[1]):
            slope = scale * (g[i] - a * w[i])
            new_m = beta1 * wide(m[i]) + rest1 * slope
            new_v = beta2 * wide(v[i]) + rest2 * slope * slope
            bits = noise(row + np.uint32(i), step_number)
            m[i], v[i] = _half(new_m, bits & np.uint32(0xFFFF)), _half(new_v, bits >> np.uint32(16))
            new = keep * w[i] - step * new_m / (np.sqrt(new_v) * inverse + eps)
            w[i] = new
            total += new * new
        if on_sphere:
            factor = np.float32(1) / max(np.sqrt(total), np.float32(1e-12))
            for i in range(weights.shape[1]):
                w[i] *= factor
