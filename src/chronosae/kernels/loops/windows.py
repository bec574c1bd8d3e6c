"""Variance within sliding windows, feature by feature, without visiting a window."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import loop


@loop
@no_type_check
def persistence(place, ranks, first, last, later):
    """P(fires | fired at the token before) of one feature; `place[first:last]` in order of time."""
    fired, followed = np.int64(0), np.int64(0)
    for q in range(first, last):
        rank = ranks[place[q]]
        if later[rank]:
            fired += 1
            followed += np.int64(q > first and ranks[place[q - 1]] == rank - 1)
    return followed / max(fired, 1)


@loop
@no_type_check
def window_variance(start, place, values, ranks, windows, later, weigh, window, eps, first, last, errors, grad):
    """`errors[f] = sum over windows of Var / (sum of squares / tokens + eps)`, times persistence; `grad` of their sum.

    windows: enter and leave of each rank: the windows `enter <= w < leave` hold it. A running sum over the windows
    changes where an activation enters or leaves; the sum of its squares follows, and how much of it each one saw.
    """
    enter, leave = windows
    tokens = enter.shape[0]
    room = np.int64(1)
    for f in range(first, last):
        room = max(room, start[f + 1] - start[f])
    seen = np.empty(room, np.float64)
    for f in range(first, last):
        errors[f] = 0
        a, n = start[f], start[f + 1] - start[f]
        if n == 0:
            continue
        squares, held = 0.0, 0.0
        for q in range(a, a + n):
            z, rank = np.float64(values[place[q]]), ranks[place[q]]
            squares += z * z
            held += z * z * (leave[rank] - enter[rank])
        i, j, running, total, energy, now = 0, 0, 0.0, 0.0, 0.0, np.int64(0)
        while j < n:
            entering = i < n and enter[ranks[place[a + i]]] <= leave[ranks[place[a + j]]]
            rank = ranks[place[a + i]] if entering else ranks[place[a + j]]
            time = enter[rank] if entering else leave[rank]
            energy += running * running * (time - now)
            total += running * (time - now)
            now = time
            if entering:
                running += values[place[a + i]]
                seen[i] = total
                i += 1
            else:
                running -= values[place[a + j]]
                seen[j] = total - seen[j]
                j += 1
                if i == j:  # nothing is held: what rounding left goes
                    running = 0.0
        variance = held / window - energy / (window * window)
        scale = squares / tokens + eps
        share = persistence(place, ranks, a, a + n, later) if weigh else 1.0
        errors[f] = share * variance / scale
        for q in range(n):
            p = place[a + q]
            z, rank = np.float64(values[p]), ranks[p]
            slope = 2 * z * (leave[rank] - enter[rank]) / window - 2 * seen[q] / (window * window)
            grad[p] = share * (slope - variance / scale * 2 * z / tokens) / scale
