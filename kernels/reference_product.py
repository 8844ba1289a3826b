"""Matrix products number by number, as product.py defines them, in plain NumPy; for tests.

It is equal bit for bit, which takes a multiply-add that rounds once; NumPy has none for float32.
"""

from __future__ import annotations

import numpy as np

from .jit import Array

DEPTH = 256


def fused(x: Array, y: Array, total: Array) -> Array:
    """Return x y + total of float32, each (M, N) or a row or column, rounded once.

    In float64 the product is exact. The sum is not, and rounding it to 53 bits and then to 24 may not give
    what one rounding gives: the first may lead into the middle between two neighbours. Rounded to odd, a sum
    that is not exact keeps a 1 in its last bit, which no such middle has (Boldo and Melquiond 2008,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd").
    """
    product, other = x.astype(np.float64) * y, total.astype(np.float64)
    found = product + other
    # What rounding took away, exactly: Knuth, The Art of Computer Programming, volume 2, section 4.2.2.
    part = found - product
    lost = (product - (found - part)) + (other - part)
    bits = found.view(np.int64)
    even = (bits & 1 == 0) & (lost != 0) & np.isfinite(found)
    outwards = (lost > 0) == (found > 0)  # the exact sum is further from 0
    odd = bits + np.where(even, np.where(outwards, 1, -1), 0)
    with np.errstate(over="ignore"):
        return odd.view(np.float64).astype(np.float32)


def multiply(c: Array, a: Array, b: Array, room: Array, add: bool = False) -> None:
    """c (M, N) = or += a (M, K) · b (K, N): blocks of 256 k's, each one chain of multiply-adds from 0."""
    if c.dtype != np.float32:
        c[...] = (c if add else 0) + a @ b
        return
    with np.errstate(all="ignore"):
        for first in range(0, max(a.shape[1], 1), DEPTH):
            total = np.zeros(c.shape, np.float32)
            for column, row in zip(a.T[first : first + DEPTH], b[first : first + DEPTH], strict=True):
                total = fused(column[:, None], row, total)
            c[...] = c + total if add or first else total
