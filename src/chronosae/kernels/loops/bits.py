"""What the other loops are made of: floats as ordered integers, inner products, bfloat16 by hand.

Every function carries `no_type_check`: the shape checker that tests install would put a Python wrapper into the loops.
"""

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Sums may be reordered into vector lanes, once and for all at compile time; NaN and Inf keep their meaning.
REORDER = {"reassoc", "contract", "nsz"}
# Division by zero gives what numpy gives: Python's check for it would keep loops from vector instructions.
loop = njit(nogil=True, cache=True, error_model="numpy")
summing = njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER)


@intrinsic
@no_type_check
def float_of(typing: Any, bits: Any) -> Any:
    """The float32 that has these 32 bits."""
    return types.float32(types.uint32), _bitcast


@no_type_check
def _bitcast(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.bitcast(args[0], ir.FloatType())


@intrinsic
@no_type_check
def bits_of(typing: Any, value: Any) -> Any:
    """The 32 bits of a float32."""
    return types.int32(types.float32), _bitcast_to_int


@no_type_check
def _bitcast_to_int(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.bitcast(args[0], ir.IntType(32))


@intrinsic
@no_type_check
def full_width(typing: Any) -> Any:
    """Lets the compiler use the machine's widest vectors in the function that says so: for loops that stay in cache.

    By itself it takes half of AVX-512's width, for the sake of processors that slow down at the whole; those meant here
    don't. A function that is called and not inlined says so itself; and all that call `dot` for a value that must be
    the same everywhere, for the width decides the order of a sum.
    """
    return types.none(), _prefer_widest


@no_type_check
def _prefer_widest(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    # llvmlite's own `add` lets pass only attributes without a value.
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')
    return context.get_dummy_value()


@loop
@no_type_check
def wide(bits):
    """The float32 of a bfloat16's bits."""
    return float_of(np.uint32(bits) << np.uint32(16))


@loop
@no_type_check
def half(value):
    """The bits of the bfloat16 nearest to a float32, ties to even."""
    u = np.uint32(bits_of(value))
    return np.uint16((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@loop
@no_type_check
def key32(value):
    """An integer in the order of float32. Minus zero comes just before zero, NaN beyond one of the infinities."""
    bits = bits_of(np.float32(value))
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@loop
@no_type_check
def value32(key):
    """Inverse of `key32`."""
    return float_of(np.uint32(np.int32(key) ^ ((np.int32(key) >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@loop
@no_type_check
def value16(key):
    """The bfloat16 whose bits became an ordered int16 the way `key32` does it, as float32."""
    bits = np.int32(key) ^ ((np.int32(key) >> 15) & 0x7FFF)
    return wide(bits & 0xFFFF)


@summing
@no_type_check
def dot(a, b):
    """Inner product, always summed in the same order: it depends on the two vectors alone."""
    full_width()
    total = a.dtype.type(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@loop
@no_type_check
def kth_largest(keys, k, low, high):
    """The largest value in `low..high` that at least k of `keys` reach; `low` if fewer do. There are k keys or more.

    Bisection between the least and the largest key: counting is one vector instruction for many.
    """
    least, most = keys[0], keys[0]
    for i in range(keys.shape[0]):
        least, most = min(least, keys[i]), max(most, keys[i])
    low, high = max(low, np.int64(least)), min(high, np.int64(most))
    while low < high:
        middle = (low + high + 1) >> 1
        wanted = keys.dtype.type(middle)
        count = 0
        for i in range(keys.shape[0]):
            count += np.int32(keys[i] >= wanted)
        if count >= k:
            low = middle
        else:
            high = middle - 1
    return keys.dtype.type(low)


@summing
@no_type_check
def round_rows(weights, rounded, columns, first, last, norms, errors):
    """bfloat16 copies of rows: `rounded[f]`, with ||row|| and ||row - copy||.

    `columns [n, 2]` go into the two columns after the row, as they are.
    """
    width = weights.shape[1]
    for f in range(first, last):
        square, error = np.float32(0), np.float32(0)
        for i in range(width):
            w = weights[f, i]
            top = half(w)
            rounded[f, i] = top
            rest = w - wide(top)
            square += w * w
            error += rest * rest
        for i in range(columns.shape[1]):
            rounded[f, width + i] = columns[f, i]
        norms[f], errors[f] = np.sqrt(square), np.sqrt(error)
