"""Dropout whose mask is a function of (key, element index): nothing is stored, backward draws it again."""

from __future__ import annotations

import numpy as np

from .jit import Array, flat, jit

PAGE = 1 << 32  # indices that share their upper 32 bits
PART = 1024  # elements at a time; they stay in the first-level cache


@jit
def _mix(h: np.uint32) -> np.uint32:
    """Scatter 32 bits one to one; constants: lowbias32 (Wellons 2018, "Prospecting for hash functions")."""
    h = np.uint32(h ^ np.uint32(h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ np.uint32(h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    return np.uint32(h ^ np.uint32(h >> np.uint32(16)))


@jit
def _bits(lower: np.uint32, upper: np.uint32, i: int) -> np.uint32:
    """Hash counter i under a 64-bit key, in two rounds: few processors multiply vectors of 64-bit numbers.

    A function of its own because LLVM then keeps the counter, too, in 32 bits (1.7 times faster).
    """
    return _mix(np.uint32(_mix(np.uint32(lower + np.uint32(i))) ^ upper))


@jit
def _dropout_page(y: Array, x: Array, key: np.uint64, start: np.uint64, rate: float) -> None:
    """Mask elements whose indices lie in one page, so that the loop counts in 32 bits."""
    dtype = x.dtype.type
    keep, drop = dtype(1.0 / (1.0 - rate)), dtype(0)
    threshold = np.uint32(rate * PAGE)
    lower = np.uint32(np.uint32(key) + np.uint32(start))
    upper = np.uint32(np.uint32(key >> np.uint64(32)) ^ _mix(np.uint32(start >> np.uint64(32))))
    part = np.empty(PART, x.dtype)  # LLVM vectorises no loop whose y may be x
    for first in range(0, x.size, PART):
        x_part, y_part = x[first : first + PART], y[first : first + PART]
        lower_part = np.uint32(lower + np.uint32(first))
        for i in range(x_part.size):
            # A product, not a choice: a NaN in a dropped place must still be seen.
            part[i] = x_part[i] * (keep if _bits(lower_part, upper, i) >= threshold else drop)
        for i in range(x_part.size):
            y_part[i] = part[i]


def dropout_forward(y: Array, x: Array, key: int, start: int, rate: float) -> None:
    """y = x * mask / (1 - rate), any shape; mask is 0 with probability `rate`; y may be x itself.

    Element i of x draws from a hash of the 64-bit `key` and the index `start + i`, so a tensor may be
    masked whole or in parts, in any order. Srivastava et al. 2014, in its inverted form. Raises
    ValueError for a rate outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate: found {rate}, expected 0 <= rate < 1")
    y, x, first = flat(y), flat(x), 0
    while first < x.size:
        stop = min(x.size, first + PAGE - (start + first) % PAGE)
        # uint64 whatever the value: Numba would take a key below 2**63 for int64, and compile once more.
        _dropout_page(y[first:stop], x[first:stop], np.uint64(key), np.uint64(start + first), float(rate))
        first = stop


def dropout_backward(dx: Array, dy: Array, key: int, start: int, rate: float) -> None:
    """dx = dy * mask / (1 - rate): the map is linear and diagonal, so it is its own transpose."""
    dropout_forward(dx, dy, key, start, rate)
