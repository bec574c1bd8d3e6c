"""The k largest of each row where k is a good part of the row: kept in place, the others set to zero."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import key32, kth_largest, loop


@loop
@no_type_check
def rectify_largest(rows, k, first, last, out):
    """`out[t]`: the k largest positive entries of the row in their places; of equal ones the first, NaN as largest."""
    width = rows.shape[1]
    keys = np.empty(width, np.int32)
    for t in range(first, last):
        row, kept = rows[t], out[t]
        for i in range(width):
            keys[i] = np.int32(2147483647) if np.isnan(row[i]) else key32(row[i])
        threshold = np.int32(1)
        if width > k:
            threshold = max(kth_largest(keys, k, np.int64(0), np.int64(2147483647)), np.int32(1))
        spare = k
        for i in range(width):
            spare -= np.int32(keys[i] > threshold)
        for i in range(width):
            kept[i] = row[i] if keys[i] > threshold else rows.dtype.type(0)
        for i in range(width):
            if spare <= 0:
                break
            if keys[i] == threshold:
                kept[i] = row[i]
                spare -= 1
