"""The optimiser's step and what surrounds it, a row at a time while the row is in cache."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import bits_of, dot, float_of, full_width, loop, summing


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
            new_m = beta1 * float_of(np.uint32(m[i]) << np.uint32(16)) + rest1 * slope
            new_v = beta2 * float_of(np.uint32(v[i]) << np.uint32(16)) + rest2 * slope * slope
            bits = noise(row + np.uint32(i), step_number)
            m[i], v[i] = _half(new_m, bits & np.uint32(0xFFFF)), _half(new_v, bits >> np.uint32(16))
            new = keep * w[i] - step * new_m / (np.sqrt(new_v) * inverse + eps)
            w[i] = new
            total += new * new
        if on_sphere:
            factor = np.float32(1) / max(np.sqrt(total), np.float32(1e-12))
            for i in range(weights.shape[1]):
                w[i] *= factor
