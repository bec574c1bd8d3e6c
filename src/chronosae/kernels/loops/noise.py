"""Normal noise, a function of a key and a place alone: any thread may make any part of it."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import bits_of, float_of, loop, summing


def _constants(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)


STEP, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ONE, LOW = np.uint64(1), np.uint64(0xFFFFFFFF)
LOG2, UNIT = np.float32(0.6931471805599453), np.float32(2.0**-31)
# Minimax fits, good to 2e-7: log(1 + m) / m between sqrt(1/2) and sqrt(2), sin(pi x / 2) / x and cos(pi x / 2) in x^2.
LOG = _constants(1.0, -0.50000364, 0.33335114, -0.24970071, 0.19898565, -0.17247014, 0.16234189, -0.10134057)
SINE = _constants(1.57079637, -0.64596379, 0.07968992, -0.00467415, 0.00015167)
COSINE = _constants(1.0, -1.23369825, 0.25365070, -0.02081057, 0.00085816)


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
