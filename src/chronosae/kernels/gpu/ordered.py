"""Floats as integers of the same order, and the k-th largest of a few without sorting them.

Every function carries `no_type_check`: the shape checker that tests install would put a Python wrapper around it.
"""

from typing import no_type_check

import triton
from triton import language as tl

# Below every key.
LOWEST = tl.constexpr(-(2**31))
# Above every key but that of NaN, which it is.
HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
@no_type_check
def ordered_key(values):
    """int32 in the order of float32; every NaN is the largest of all, minus zero comes just before zero."""
    bits = values.to(tl.int32, bitcast=True)
    return tl.where(values != values, HIGHEST, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
@no_type_check
def value_of(key):
    """The float32 that a key stands for."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def kth_largest(keys, k):
    """The largest key from 0 on that at least k of `keys` reach; 0 if fewer than k are positive. Bisection."""
    low = tl.zeros((), tl.int32)
    high = tl.maximum(tl.max(keys, 0), 0)
    while low < high:
        middle = low + ((high - low) >> 1) + ((high - low) & 1)
        enough = tl.sum((keys >= middle).to(tl.int32), 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low
