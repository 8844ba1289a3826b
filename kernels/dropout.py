"""Dropout whose mask is a function of (key, element index): nothing is stored, backward draws it again."""

from __future__ import annotations

import numpy as np

from .jit import Array, flat, jit


@jit
def _mix(h: np.uint32) -> np.uint32:
    """Scatter 32 bits one to one; constants: lowbias32 (Wellons 2018, "Prospecting for hash functions")."""
    h = np.uint32(h)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@jit
def _dropout(y: Array, x: Array, key: np.uint64, start: np.uint64, rate: float) -> None:
    dtype = x.dtype.type
    low, high = np.uint32(key), np.uint32(key >> np.uint64(32))
    threshold = np.uint32(rate * 4294967296.0)
    keep, drop = dtype(1.0 / (1.0 - rate)), dtype(0)
    for i in range(x.size):
        index = start + np.uint64(i)
        # Two keyed rounds in 32 bits: 64-bit products do not vectorise on most processors.
        bits = _mix(np.uint32(index) ^ low)
        bits = _mix(bits ^ high ^ _mix(np.uint32(index >> np.uint64(32))))
        # A product, not a choice: a NaN in a dropped place must still be seen.
        y[i] = x[i] * (keep if bits >= threshold else drop)


def dropout_forward(y: Array, x: Array, key: int, start: int, rate: float) -> None:
    """y = x * mask / (1 - rate), any shape; mask is 0 with probability `rate`; y may be x itself.

    Element i of x draws from a hash of the 64-bit `key` and the index `start + i`, so a tensor may be
    masked whole or in parts, in any order. Srivastava et al. 2014, in its inverted form. Raises
    ValueError for a rate outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate: found {rate}, expected 0 <= rate < 1")
    # uint64 whatever the value: a key below 2**63 would otherwise be int64 to Numba, and compile again.
    _dropout(flat(y), flat(x), np.uint64(key), np.uint64(start), float(rate))


def dropout_backward(dx: Array, dy: Array, key: int, start: int, rate: float) -> None:
    """dx = dy * mask / (1 - rate): the map is linear and diagonal, so it is its own transpose."""
    dropout_forward(dx, dy, key, start, rate)
