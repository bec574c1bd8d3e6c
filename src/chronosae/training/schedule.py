"""Learning-rate schedule."""

import math


def lr_multiplier(step: int, steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up, flat, linear decay to zero after the last step.

    Warm-up is cut to a tenth of a short run, so that a run of a few steps still trains.
    """
    warmup = min(warmup_steps, steps // 10)
    decay = int(steps * decay_fraction)
    rise = (step + 1) / (warmup + 1) if step < warmup else 1.0
    fall = (steps - step) / (decay + 1) if steps - step <= decay else 1.0
    return min(rise, fall)


def cosine_multiplier(step: int, steps: int) -> float:
    """1 at the first step, falling to 0 at the last along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(steps - 1, 1))))


def warmup(step: int, steps: int, fraction: float) -> float:
    """Share of a weight at `step`, which rises linearly over the first `fraction` of the steps."""
    return min(1.0, (step + 1) / (int(fraction * steps) + 1))
