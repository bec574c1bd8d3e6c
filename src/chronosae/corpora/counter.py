"""Randomness that depends on numbers, not on the order of calls.

SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), chained over its arguments.
The same arguments give the same value on every machine and every library version, so "what comes next" can be
computed from a position alone and a resumed run needs no generator state.
"""

import numpy as np

_BITS = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(word: int) -> int:
    word = (word + _GOLDEN) & _BITS
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _BITS
    return word ^ (word >> 31)


def hash64(*words: int) -> int:
    """64 well-mixed bits that depend on every word and on their order."""
    state = 0
    for word in words:
        state = _mix(state ^ _mix(word & _BITS))
    return state


def uniform(*words: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    return (hash64(*words) >> 11) * 2.0**-53


def permutation(n: int, *words: int) -> np.ndarray:
    """The numbers 0..n-1 in an order that depends only on `words`; int64, shape [n]."""
    state = np.arange(n, dtype=np.uint64) ^ np.uint64(hash64(*words))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = state + np.uint64(_GOLDEN)  # array arithmetic wraps modulo 2^64, as SplitMix64 wants
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable")
