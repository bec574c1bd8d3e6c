"""The optimiser's step and what surrounds it, a row at a time while the row is in cache."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import dot, summing


@summing
@no_type_check
def gradient_energy(grad, weights, on_sphere, first, last, energy, along):
    """Squared norm of each row's gradient; on the sphere, of what is at right angles to the row, and the other part."""
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

    rates: lr / (1 - beta1^t), beta1, beta2, sqrt(1 - beta2^t), eps, 1 - lr weight_decay.
    """
    width = weights.shape[1]
    step, beta1, beta2, correction, eps, keep = rates
    rest1, rest2, inverse = 1 - beta1, 1 - beta2, 1 / correction
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
            factor = 1 / max(np.sqrt(total), weights.dtype.type(1e-12))
            for i in range(width):
                w[i] *= factor
